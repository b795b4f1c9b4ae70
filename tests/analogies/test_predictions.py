"""Closed forms at the values and limits that the literature and plain physics give."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest

from fedmomentum.analogies import (
    batch_norm,
    games,
    low_pass,
    pd_control,
    phase_space,
    plateau,
    ravine,
    recurrent,
    server_momentum,
    spring,
    temperature,
    weight_decay,
)
from fedmomentum.analogies.result import as_array


class TestSpring:
    @pytest.mark.parametrize(
        ("a", "beta", "regime"),
        [
            (0.01, 0.9, "underdamped"),
            (0.01, 0.5, "overdamped"),
            (0.25, 0.25, "critical"),
            (3.9, 0.9, "unstable"),
            (3.799, 0.9, "alternating"),
            (1.5, 0.0, "alternating"),
            (0.5, 0.0, "overdamped"),
        ],
    )
    def test_regimes(self, a: float, beta: float, regime: str) -> None:
        assert spring.predict(lr=a, curvature=1.0, momentum=beta).regime == regime

    def test_it_rings_exactly_between_the_two_bounds(self) -> None:
        beta = 0.81
        for a, rings in ((0.0099, False), (0.0101, True), (3.609, True), (3.611, False)):
            assert (spring.predict(lr=a, curvature=1.0, momentum=beta).angular_frequency > 0) == rings

    def test_units(self) -> None:
        one = spring.predict(lr=0.01, curvature=1.0, momentum=0.9)
        other = spring.predict(lr=0.01 / 400, curvature=400.0, momentum=0.9)  # lr * curvature is all that counts
        for name in ("radius", "period", "damping_ratio", "critical_momentum", "stability_margin"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9)
        assert other.stiffness == 400 * one.stiffness and other.friction == pytest.approx(20 * one.friction)

    def test_the_approximations_meet_the_exact_ratio_at_small_steps(self) -> None:
        s = spring.predict(lr=1e-6, curvature=1.0, momentum=1 - 1e-3)
        assert s.damping_ratio == pytest.approx(0.5, rel=1e-3)
        assert s.damping_ratio_central == pytest.approx(s.damping_ratio, rel=1e-6)

    def test_refuses(self) -> None:
        for bad in ({"lr": 0.0}, {"curvature": -1.0}, {"momentum": 1.0}):
            with pytest.raises(ValueError, match="need lr > 0"):
                spring.predict(**{"lr": 0.1, "curvature": 1.0, "momentum": 0.9, **bad})


class TestControl:
    @pytest.mark.parametrize("form", ["heavy_ball", "ema", "nesterov"])
    def test_margins_agree_with_the_open_loop(self, form: str) -> None:
        lr, beta = 0.03, 0.8
        loop = pd_control.predict(lr=lr, curvature=1.0, momentum=beta, form=form)  # type: ignore[arg-type]
        gain = lr * (1 - beta if form == "ema" else 1)

        def open_loop(w: float) -> complex:
            z = complex(math.cos(w), math.sin(w))
            return gain * ((1 + beta) * z - beta if form == "nesterov" else z) / ((z - 1) * (z - beta))

        at = open_loop(loop.crossover)
        assert abs(at) == pytest.approx(1, rel=1e-9)
        assert math.remainder(math.atan2(at.imag, at.real) + math.pi - loop.phase_margin, 2 * math.pi) == pytest.approx(
            0, abs=1e-9
        )
        assert open_loop(math.pi) == pytest.approx(-1 / loop.gain_margin, rel=1e-9)

    def test_gains(self) -> None:
        loop = pd_control.predict(lr=0.1, curvature=2.0, momentum=0.9)
        assert (loop.proportional, loop.derivative) == pytest.approx((0.2, 0.1))
        assert pd_control.predict(lr=0.1, curvature=2.0, momentum=0.9, form="nesterov").derivative == pytest.approx(
            0.28
        )

    def test_momentum_cannot_lift_the_arm(self) -> None:
        arm = pd_control.Arm(gravity=6.0)
        ends = [arm.reach(1.0, 0.02, kd, 4000)[-1] for kd in (0.1, 0.4, 0.9)]
        assert max(ends) - min(ends) < 1e-9 and ends[0] < 0.9
        with pytest.raises(ValueError, match="target"):
            arm.hold(2.0, 1.0)

    def test_pid_refuses(self) -> None:
        with pytest.raises(ValueError, match=r"momentum must be in \[-1, 1\]"):
            pd_control.pid(lr=0.1, momentum=1.5)


class TestPlateau:
    def test_speedup_tends_to_the_gain(self) -> None:
        land = plateau.Landscape(length=1e3)
        assert plateau.predict(lr=0.01, momentum=0.9, landscape=land).speedup == pytest.approx(10, rel=1e-2)
        assert plateau.predict(lr=0.01, momentum=0.9, form="ema", landscape=land).speedup == pytest.approx(1, rel=1e-3)

    def test_a_short_plateau_gains_little(self) -> None:
        assert plateau.predict(lr=0.01, momentum=0.99, landscape=plateau.Landscape(length=0.05)).speedup < 2

    def test_friction_on_the_rim_delays_the_overshoot(self) -> None:
        s = plateau.predict(lr=2e-4, momentum=0.9, landscape=plateau.Landscape(1.0, 0.3, 8.0, 0.11))
        assert s.overshoot_momentum_energy < s.overshoot_momentum < 1

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="must be positive"):
            plateau.Landscape(depth=0.0)
        with pytest.raises(ValueError, match="need lr > 0"):
            plateau.predict(lr=0.0, momentum=0.9)


class TestRavine:
    @pytest.mark.parametrize("kappa", [10.0, 1e3, 1e6])
    def test_rates(self, kappa: float) -> None:
        best = ravine.predict(condition=kappa)
        root = math.sqrt(kappa)
        assert best["sgd"].contraction == pytest.approx((kappa - 1) / (kappa + 1), rel=1e-12)
        assert best["heavy_ball"].contraction == pytest.approx((root - 1) / (root + 1), rel=1e-12)
        assert best["nesterov"].contraction == pytest.approx(1 - 1 / root, rel=1e-12)
        assert best["sgd"].steps / best["heavy_ball"].steps > 0.2 * root

    def test_steps_in_the_loss_at_a_thousand(self) -> None:
        from fedmomentum.analogies import linear

        best = ravine.predict(condition=1000.0)
        assert best["sgd"].steps == 2303
        flat, steep = (
            linear.path("heavy_ball", best["heavy_ball"].lr * h, best["heavy_ball"].momentum, 400) for h in (1, 1000)
        )
        loss = (flat**2 + 1000 * steep**2) / 1001
        assert int(np.argmax(loss <= 1e-4)) == 164

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="condition > 1"):
            ravine.predict(condition=1.0)
        with pytest.raises(ValueError, match="unknown rule 'sdg'"):
            ravine.simulate(rules=("sdg",))


class TestWeightDecay:
    def test_fixed_points(self) -> None:
        s = weight_decay.predict(lr=0.1, weight_decay=0.5, momentum=0.9, curvature=2.0, optimum=3.0)
        assert (s.l2, s.decoupled, s.decoupled_ema) == pytest.approx((6 / 2.5, 6 / 2.05, 6 / 2.5))
        for optimum, rest in ((3.0, 2.0), (-3.0, -2.0), (1.5, 1.5)):
            assert weight_decay.predict(lr=0.1, weight_decay=0.5, momentum=0.9, optimum=optimum).adamw == rest

    def test_turn_does_not_know_the_gradient(self) -> None:
        s = weight_decay.predict(lr=0.01, weight_decay=0.02, momentum=0.0)
        assert s.turn == pytest.approx(math.sqrt(2 * 0.01 * 0.02))
        assert s.turn == pytest.approx(0.01 / s.balance_norm**2)  # lr |g|/|w| with |g| = 1/|w|

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="weight_decay"):
            weight_decay.predict(lr=0.1, weight_decay=0.0, momentum=0.9)


class TestBatchNorm:
    def test_torchs_default_matches_momentum_nine_tenths(self) -> None:
        lags = batch_norm.predict()
        assert lags.statistics == pytest.approx(9) and lags.optimizer == pytest.approx(9)
        assert lags.matched_momentum == pytest.approx(0.9)
        drift = batch_norm.phase_drift(as_array([0.01, 0.1, 1.0]), bn_momentum=0.1, momentum=0.9)
        np.testing.assert_allclose(drift, 0, atol=1e-12)

    @pytest.mark.parametrize("steps", [1, 5, 20])
    def test_matched_momentum_cancels_slow_drift(self, steps: int) -> None:
        beta = batch_norm.predict(bn_momentum=0.05, local_steps=steps).matched_momentum
        assert batch_norm.predict(bn_momentum=0.05, momentum=beta, local_steps=steps).optimizer == pytest.approx(19)
        w = 1e-4
        drift = batch_norm.phase_drift(as_array([w]), bn_momentum=0.05, momentum=beta, local_steps=steps)
        assert abs(drift[0]) < 1e-2 * w * 19

    def test_late_statistics_are_negative_drift(self) -> None:
        drift = batch_norm.phase_drift(as_array([1e-3]), bn_momentum=0.01, momentum=0.5)
        assert drift[0] == pytest.approx(-1e-3 * (99 - 1), rel=0.02)

    def test_a_served_variance_turns_negative(self) -> None:
        assert batch_norm.predict(momentum=0.9, local_steps=5).lowest < -0.5
        assert batch_norm.predict(momentum=0.0, local_steps=5).lowest == pytest.approx(0.1)

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="bn_momentum"):
            batch_norm.predict(bn_momentum=0.0)


class TestLowPass:
    @pytest.mark.parametrize("cutoff", [0.01, 0.3, 1.0, 3.0, math.pi])
    def test_beta_for_cutoff(self, cutoff: float) -> None:
        beta = low_pass.beta_for_cutoff(cutoff)
        assert low_pass.predict(momentum=beta).cutoff == pytest.approx(cutoff, rel=1e-5)
        assert abs(low_pass.response(as_array([cutoff]), beta)[0]) ** 2 == pytest.approx(0.5, rel=1e-9)

    def test_no_cutoff_below_a_small_momentum(self) -> None:
        edge = 3 - 2 * math.sqrt(2)
        assert math.isnan(low_pass.predict(momentum=edge - 1e-6).cutoff)
        assert low_pass.predict(momentum=edge + 1e-9).cutoff == pytest.approx(math.pi, abs=1e-3)
        with pytest.raises(ValueError, match="cutoff"):
            low_pass.beta_for_cutoff(0.0)

    @pytest.mark.parametrize("form", ["ema", "heavy_ball", "nesterov"])
    def test_noise_gain_is_the_area_under_the_power_gain(self, form: str) -> None:
        w = np.linspace(0, math.pi, 200_001)
        power = np.abs(low_pass.response(w, 0.8, form=form)) ** 2  # type: ignore[arg-type]
        area = float(np.trapezoid(power, w)) / math.pi
        assert low_pass.predict(momentum=0.8, form=form).noise_gain == pytest.approx(area, rel=1e-6)  # type: ignore[arg-type]

    def test_delay_is_the_slope_of_the_phase(self) -> None:
        for form in ("ema", "nesterov"):
            phase = np.angle(low_pass.response(as_array([1e-5]), 0.9, form=form))[0]  # type: ignore[arg-type]
            assert low_pass.predict(momentum=0.9, form=form).delay == pytest.approx(-phase / 1e-5, rel=1e-6)  # type: ignore[arg-type]

    def test_welch_keeps_the_variance(self) -> None:
        import torch

        noise = torch.randn(8000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
        w, density = low_pass.welch(noise)
        assert float(np.trapezoid(density, w)) / math.pi == pytest.approx(9, rel=0.05)
        with pytest.raises(ValueError, match="T >= 128"):
            low_pass.welch(noise[:50])


class TestGames:
    @pytest.mark.parametrize("beta", [-0.9, -0.5, -0.1, 0.0, 0.3, 0.9])
    def test_at_once_equal_momentum_never_converges(self, beta: float) -> None:
        assert games.predict(lr=0.1, momentum_x=beta, momentum_y=beta, turns=False).radius > 1

    def test_negative_momentum_in_turns(self) -> None:
        game = games.predict(lr=0.03, momentum_x=-0.5, momentum_y=0.0)
        assert game.converges and game.radius**2 == pytest.approx(1 - 2 * 0.03**2 / 9, abs=1e-6)
        assert not games.predict(lr=0.03, momentum_x=0.5).converges

    def test_turns_without_momentum_circle_below_two(self) -> None:
        assert games.predict(lr=1.9, momentum_x=0.0).radius == pytest.approx(1, abs=1e-6)
        assert games.predict(lr=2.1, momentum_x=0.0).radius > 1.5

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="momenta"):
            games.predict(momentum_x=1.0)


class TestTemperature:
    def test_limits(self) -> None:
        cold = temperature.predict(lr=1e-5, momentum=0.9, noise=2.0, curvature=3.0)
        assert cold.variance * 3.0 == pytest.approx(cold.temperature, rel=1e-4)
        plain = temperature.predict(lr=0.5, momentum=0.0, noise=1.0, curvature=1.0)
        assert plain.variance == pytest.approx(0.25 / (1 - 0.25))  # of x <- x/2 + noise/2

    def test_units_and_scaling(self) -> None:
        one, ten = (temperature.predict(lr=1e-4, momentum=b, noise=1.0, curvature=1.0) for b in (0.0, 0.9))
        assert ten.temperature == pytest.approx(10 * one.temperature)

    def test_unstable_has_no_stationary_state(self) -> None:
        with pytest.raises(ValueError, match="unstable"):
            temperature.predict(lr=2.0, momentum=0.0, noise=1.0, curvature=1.0)


class TestPhaseSpace:
    def test_lyapunov_and_antisymmetry(self) -> None:
        b, d, parity = phase_space.optimizer(
            np.diag([1.0, 4.0]), phase_space.noise_covariance(0.5), lr=0.02, momentum=0.8
        )
        flow = phase_space.predict(b, d, parity=parity)
        np.testing.assert_allclose(b @ flow.covariance + flow.covariance @ b.T, 2 * d, atol=1e-12)
        np.testing.assert_allclose(flow.circulation, -flow.circulation.T, atol=1e-12)

    @pytest.mark.parametrize(
        ("curvature", "noise", "equilibrium"),
        [
            (np.diag([1.0, 4.0]), np.eye(2), True),
            (np.diag([1.0, 4.0]), np.diag([3.0, 1.0]), True),  # commutes, though the temperatures differ
            (np.eye(2), phase_space.noise_covariance(0.7), True),
            (np.array([[2.0]]), np.array([[1.0]]), True),
            (np.diag([1.0, 4.0]), phase_space.noise_covariance(0.7), False),
        ],
    )
    def test_equilibrium_iff_curvature_and_noise_commute(
        self, curvature: np.ndarray, noise: np.ndarray, equilibrium: bool
    ) -> None:
        b, d, parity = phase_space.underdamped(curvature, noise, 0.7)
        flow = phase_space.predict(b, d, parity=parity)
        assert flow.equilibrium == equilibrium
        assert (flow.entropy_production < 1e-12) == equilibrium
        assert np.abs(flow.circulation).max() > 0.1  # the Hamiltonian part flows in any case
        assert phase_space.predict(curvature, noise).equilibrium == equilibrium

    def test_overdamped_circulation(self) -> None:
        d = phase_space.noise_covariance(0.4)
        flow = phase_space.predict(np.diag([1.0, 3.0]), d)
        assert flow.circulation[0, 1] == pytest.approx(d[0, 1] * (1 - 3) / (1 + 3))

    def test_entropy_does_not_know_the_units_but_the_raw_curl_does(self) -> None:
        b, d, parity = phase_space.underdamped(np.diag([1.0, 4.0]), phase_space.noise_covariance(0.7), 0.7)
        one = phase_space.predict(b, d, parity=parity)
        u = np.diag([1.0, 1.0, 3.0, 3.0])  # velocities in other units
        other = phase_space.predict(u @ b @ np.linalg.inv(u), u @ d @ u, parity=parity)
        assert other.entropy_production == pytest.approx(one.entropy_production, rel=1e-9)
        assert abs(other.raw_curl - one.raw_curl) > 0.5

    def test_raw_curl_of_one_spring(self) -> None:
        b, d, parity = phase_space.underdamped(np.array([[2.5]]), np.array([[1.0]]), 0.7)
        flow = phase_space.predict(b, d, parity=parity)
        assert flow.raw_curl == pytest.approx(3.5)  # 1 + h, in equilibrium
        assert flow.equilibrium

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="not stable"):
            phase_space.predict(np.diag([1.0, -1.0]), np.eye(2))
        with pytest.raises(ValueError, match="negative eigenvalues"):
            phase_space.predict(np.eye(2), np.diag([1.0, -1.0]))
        with pytest.raises(ValueError, match="parity"):
            phase_space.predict(np.eye(2), np.eye(2), parity=np.array([1.0, 2.0]))


class TestRecurrent:
    def test_curvature_explodes_and_vanishes(self) -> None:
        assert recurrent.predict(weight=1.0, length=30).curvature == pytest.approx(900)
        ratio = recurrent.predict(weight=1.1).curvature / recurrent.predict(weight=0.9).curvature
        assert ratio == pytest.approx((1.1 / 0.9) ** 58, rel=1e-9)

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="need weight"):
            recurrent.predict(weight=0.0)


class TestServerMomentum:
    SETTING: ClassVar[dict[str, Any]] = {"clients": 40, "per_round": 5, "local_lr": 0.1, "local_steps": 1}

    def test_at_a_fixed_rate_momentum_raises_the_variance(self) -> None:
        served = server_momentum.predict(
            clients=100, per_round=10, server_lr=1.0, momentum=0.9, local_lr=0.1, local_steps=4
        )
        a = 1 - 0.9**4
        assert served.ratio_at_lr == pytest.approx(1.9 * (2 - a) / (0.1 * (3.8 - a)))
        assert 8.5 < served.ratio_at_lr < 10

    def test_at_a_fixed_step_the_ratio_stays_between_a_half_and_one(self) -> None:
        for a0 in (0.01, 0.5, 1.0):
            for beta in (0.3, 0.9, 0.999):
                lr = a0 * (1 - beta) / 0.1
                served = server_momentum.predict(server_lr=lr, momentum=beta, **self.SETTING)
                assert 1 - a0 / 2 - 1e-9 <= served.ratio_at_step <= 1

    def test_buffer_at_small_steps(self) -> None:
        served = server_momentum.predict(server_lr=1e-6, momentum=0.9, **self.SETTING)
        assert served.buffer == pytest.approx(0.1 / 1.9, rel=1e-5)

    def test_everybody_taking_part_makes_no_noise(self) -> None:
        setting = {**self.SETTING, "per_round": 40}
        assert server_momentum.predict(server_lr=1.0, momentum=0.9, **setting).variance == 0

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="unstable"):
            server_momentum.predict(server_lr=50.0, momentum=0.0, **self.SETTING)
        with pytest.raises(ValueError, match="per_round"):
            server_momentum.predict(server_lr=1.0, momentum=0.0, **{**self.SETTING, "per_round": 41})
