"""Probes measure on tensors and callables what the closed forms predict where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedmomentum.analogies import (
    batch_norm,
    games,
    linear,
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
from fedmomentum.analogies.descent import follow
from fedmomentum.analogies.ring_gan import ring_gan
from fedmomentum.optim import make_rule
from fedmomentum.streams import torch_stream
from fedmomentum.trees import Tree


def bowl(*curvatures: float) -> tuple[object, Tree]:
    h = torch.tensor(curvatures, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(len(h), len(h), generator=torch.Generator().manual_seed(1)).double())
    matrix = turn @ torch.diag(h) @ turn.T
    params = {"a": torch.randn(1, dtype=torch.float64), "b": torch.randn(len(h) - 1, dtype=torch.float64)}

    def loss(p: Tree) -> Tensor:
        x = torch.cat([p["a"], p["b"]])
        return x @ matrix @ x / 2

    return loss, params


def white(steps: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(steps, size, generator=torch_stream(seed, "test probes"), dtype=torch.float64)


class TestCurvatureProbes:
    def test_spring(self) -> None:
        loss, params = bowl(0.5, 1.0, 4.0)
        found = spring.probe(loss, params, lr=0.01, momentum=0.9)
        assert found.sharpness == pytest.approx(4.0, rel=1e-9) and found.uncertainty < 1e-6
        assert found.spring.damping_ratio == pytest.approx(
            spring.predict(lr=0.01, curvature=4.0, momentum=0.9).damping_ratio
        )

    def test_critical_momentum_of_the_probe_is_the_fastest_for_the_model(self) -> None:
        loss, params = bowl(4.0, 4.0, 4.0)
        best = spring.probe(loss, params, lr=0.01, momentum=0.9).spring.critical_momentum

        def left(beta: float) -> float:
            return abs(linear.path("heavy_ball", 0.04, beta, 60)[-1])

        assert left(best) < min(left(best - 0.05), left(best + 0.05))

    def test_control_margins(self) -> None:
        loss, params = bowl(0.5, 1.0, 4.0)
        assert pd_control.probe(loss, params, lr=0.1, momentum=0.5).gain_margin == pytest.approx(3.0 / 0.4, rel=1e-9)

    def test_ravine(self) -> None:
        loss, params = bowl(0.5, 1.0, 50.0)
        found = ravine.probe(loss, params)
        assert found.condition == pytest.approx(100, rel=1e-6) and found.negative == 0.0
        assert found.best.lr == pytest.approx(4 / (math.sqrt(50) + math.sqrt(0.5)) ** 2, rel=1e-6)
        assert 1 < found.coordinates < 3
        aligned = ravine.probe(
            lambda p: (p["x"] ** 2 * torch.tensor([1.0, 9.0]).double()).sum(), {"x": torch.ones(2).double()}
        )
        assert aligned.coordinates == pytest.approx(1.0)
        one = ravine.probe(lambda p: (p["x"] ** 2).sum(), {"x": torch.ones(3).double()})
        assert one.best.contraction == 0.0 and one.best.lr == pytest.approx(0.5)

    def test_a_saddle(self) -> None:
        loss, params = bowl(-2.0, 1.0, 3.0)
        assert ravine.probe(loss, params).negative == pytest.approx(-2)
        with pytest.raises(ValueError, match="no spring"):
            spring.probe(lambda p: -(p["x"] ** 2).sum(), {"x": torch.ones(2)}, lr=0.1, momentum=0.9)
        with pytest.raises(ValueError, match="nothing to control"):
            pd_control.probe(lambda p: -(p["x"] ** 2).sum(), {"x": torch.ones(2)}, lr=0.1, momentum=0.9)
        with pytest.raises(ValueError, match="no positive curvature"):
            ravine.probe(lambda p: -(p["x"] ** 2).sum(), {"x": torch.ones(2)})

    def test_a_model_in_a_clients_hands(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        x, y = torch.randn(32, 6), torch.randint(0, 3, (32,))
        params = {n: p.detach() for n, p in model.named_parameters()}

        def loss(p: Tree) -> Tensor:
            return nn.functional.cross_entropy(functional_call(model, p, (x,)), y)

        found = spring.probe(loss, params, lr=0.1, momentum=0.9)
        assert found.sharpness > 0 and found.spring.stability_margin > 1
        assert all(p.grad is None for p in model.parameters())


def test_zigzag() -> None:
    along = torch.ones(5, 3)
    across = along * torch.tensor([1.0, -1, 1, -1, 1])[:, None]
    assert ravine.zigzag(along) == pytest.approx(1) and ravine.zigzag(across) == pytest.approx(-1)
    with pytest.raises(ValueError, match="T >= 2"):
        ravine.zigzag(along[:1])


def test_plateau_tells_falling_from_noise() -> None:
    beta = 0.9
    fall = plateau.probe(torch.ones(600, 2), lr=0.1, momentum=beta)
    assert fall.coherence == pytest.approx(1, abs=1e-3) and fall.gain == pytest.approx(10, rel=1e-3)
    assert fall.kinetic_energy == pytest.approx(0.95 * 0.1 * 200 / 2, rel=1e-6)
    assert abs(plateau.probe(white(4000, 5), lr=0.1, momentum=beta).coherence) < 0.02
    zigzag = torch.ones(600, 2) * (1 - 2 * (torch.arange(600) % 2))[:, None]
    assert plateau.probe(zigzag, lr=0.1, momentum=beta).coherence < -0.04
    with pytest.raises(ValueError, match="T >= 30"):
        plateau.probe(torch.ones(10, 2), lr=0.1, momentum=beta)
    with pytest.raises(ValueError, match="zero"):
        plateau.probe(torch.zeros(100, 2), lr=0.1, momentum=beta)


def test_weight_decay_finds_the_balance() -> None:
    lr, decay, beta = 0.02, 5e-3, 0.9
    norm = weight_decay.predict(lr=lr, weight_decay=decay, momentum=beta).balance_norm
    w = torch.zeros(200, dtype=torch.float64)
    w[0] = norm
    g = white(300, 200)
    g[:, 0] = 0  # at right angles to the weights
    g = g / g.norm(dim=1, keepdim=True) / norm
    found = weight_decay.probe(w, g, lr=lr, weight_decay=decay, momentum=beta)
    assert found.balance_norm == pytest.approx(found.norm, rel=1e-9) and found.radial < 1e-12
    twice = weight_decay.probe(w, 2 * g, lr=lr, weight_decay=decay, momentum=beta)
    assert twice.balance_norm == pytest.approx(math.sqrt(2) * norm, rel=1e-9)
    assert weight_decay.probe(w, w.expand(3, 200), lr=lr, weight_decay=decay, momentum=beta).radial == pytest.approx(1)
    with pytest.raises(ValueError, match="not \\[T"):
        weight_decay.probe(w, g[:, :10], lr=lr, weight_decay=decay, momentum=beta)


class TestBatchNorm:
    def test_a_shifted_history_is_found(self) -> None:
        path = torch.cumsum(white(120, 4), 0)
        assert batch_norm.probe(path[3:100], path[8:105]) == pytest.approx(5, abs=0.01)
        assert batch_norm.probe(path[8:105], path[3:100]) == 0.0  # ahead of the weights: no lag
        late = torch.stack([path[max(t - 7, 0)] for t in range(120)])
        assert batch_norm.probe(late, path) == pytest.approx(7, abs=0.01)

    def test_recalibration_is_the_plain_mean_and_leaves_the_model_alone(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
        before = {n: b.clone() for n, b in model.state_dict().items()}
        x = torch.randn(60, 3, dtype=torch.float64)
        found = batch_norm.recalibrate(model, x.split(20))
        hidden = model[0](x)
        torch.testing.assert_close(found["1.running_mean"], hidden.mean(0))
        torch.testing.assert_close(found["1.running_var"], torch.stack([h.var(0) for h in hidden.split(20)]).mean(0))
        assert all(torch.equal(before[n], b) for n, b in model.state_dict().items())
        with pytest.raises(ValueError, match="no batch norm"):
            batch_norm.recalibrate(nn.Linear(3, 4), [x])


@pytest.mark.parametrize("form", ["ema", "heavy_ball", "nesterov"])
def test_low_pass_noise_gain(form: linear.Form) -> None:
    found = low_pass.probe(white(4000, 6) + 3.0, momentum=0.8, form=form)
    assert found.noise_gain == pytest.approx(found.white, rel=0.05)
    assert found.noise == pytest.approx(6, rel=0.05) and found.signal == pytest.approx(54, rel=0.05)
    assert abs(found.correlation) < 0.03
    slow = low_pass.probe(torch.cumsum(white(2000, 6), 0), momentum=0.8, form=form)
    assert slow.noise_gain > 2 * slow.white and slow.correlation > 0.9
    with pytest.raises(ValueError, match="do not vary"):
        low_pass.probe(torch.ones(20, 2), momentum=0.8)


def test_games_rotation() -> None:
    def field(z: Tensor) -> Tensor:  # min_x max_y xy + h (x^2 - y^2)/2, by each player's own gradient
        x, y = z
        return torch.stack([y + 0.5 * x, -x + 0.5 * y])

    found = games.probe(field, torch.tensor([1.0, 2.0]))
    assert found.antisymmetric == pytest.approx(math.sqrt(2)) and found.symmetric == pytest.approx(math.sqrt(0.5))
    assert found.fraction == pytest.approx(0.8)
    gradient = torch.func.grad(lambda z: (z**4).sum() + (z[0] * z[1]))
    assert games.probe(gradient, torch.tensor([1.0, 2.0])).fraction == pytest.approx(0, abs=1e-9)


def test_ring_gan_is_seeded_and_each_game_is_its_own() -> None:
    pair = ring_gan(momenta=(0.0, 0.5), steps=12, batch=16)
    alone = ring_gan(momenta=(0.5,), steps=12, batch=16)
    np.testing.assert_allclose(pair.samples[1], alone.samples[0], atol=1e-5)
    assert np.abs(pair.samples[0] - pair.samples[1]).max() > 1e-3
    assert pair.samples.shape == (2, 1024, 2) and len(pair.modes_covered) == 2


@pytest.mark.slow
def test_large_momentum_loses_the_ring() -> None:
    game = ring_gan(momenta=(0.0, 0.9))
    assert game.modes_covered[0] > game.modes_covered[1]


class TestTemperature:
    def test_heat_of_an_optimizer_in_equilibrium(self) -> None:
        lr, beta = 0.02, 0.8
        gradients: list[Tensor] = []
        noise = torch_stream(3, "test heat")

        def gradient(x: Tensor) -> Tensor:
            gradients.append(x + torch.randn(x.shape, generator=noise, dtype=torch.float64) * 2)
            return gradients[-1]

        points = follow(make_rule("heavy_ball", lr=lr, momentum=beta), gradient, torch.zeros(60).double(), 2500)[:-1]
        found = temperature.probe(torch.stack(gradients)[500:], points[500:], lr=lr, momentum=beta)
        assert found.noise == pytest.approx(4, rel=0.03)
        assert found.temperature == pytest.approx(lr * 4 / (2 * (1 - beta)), rel=0.03)
        assert found.equilibrium == pytest.approx(1, abs=0.06)

    def test_no_noise(self) -> None:
        with pytest.raises(ValueError, match="no noise"):
            temperature.probe(torch.ones(9, 2), torch.zeros(9, 2), lr=0.1, momentum=0.9)


class TestPhaseSpace:
    @pytest.mark.parametrize("momentum", [0.0, 0.8])
    @pytest.mark.parametrize(("angle", "circulates"), [(0.0, False), (math.pi / 4, True)])
    def test_arrow_of_time(self, momentum: float, angle: float, circulates: bool) -> None:
        noise = torch_stream(2, "test arrow")
        factor = torch.as_tensor(np.linalg.cholesky(phase_space.noise_covariance(angle, ratio=50.0))).T
        h = torch.diag(torch.tensor([1.0, 6.0]).double())

        def gradient(x: Tensor) -> Tensor:
            return x @ h + torch.randn(2, generator=noise, dtype=torch.float64) @ factor

        rule = make_rule("heavy_ball", lr=0.1 * (1 - momentum), momentum=momentum)
        path = follow(rule, gradient, torch.zeros(2).double(), 6000)[500:]
        arrow = phase_space.probe(path, lag=4)
        assert (arrow.index > 4 * arrow.floor) == circulates
        backwards = phase_space.probe(path.flip(0), lag=4)
        assert backwards.index == pytest.approx(arrow.index, rel=1e-6)

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="fewer than two directions"):
            phase_space.probe(torch.arange(40.0)[:, None].expand(40, 3))
        with pytest.raises(ValueError, match="T >= 12"):
            phase_space.probe(white(5, 3))


class TestRecurrent:
    def test_exponents_that_are_known(self) -> None:
        turn = 0.9 * torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double()
        assert recurrent.probe(lambda h: turn @ h, torch.ones(2).double()) == pytest.approx(math.log(0.9))
        # The logistic map at its most chaotic.
        chaos = recurrent.probe(lambda h: 4 * h * (1 - h), torch.tensor([0.2345]).double(), steps=4000)
        assert chaos == pytest.approx(math.log(2), rel=0.03)
        assert recurrent.probe(lambda h: h * 0, torch.ones(2)) == -math.inf

    def test_a_torch_cell(self) -> None:
        torch.manual_seed(0)
        cell = nn.RNNCell(3, 5)
        with torch.no_grad():
            cell.weight_hh.mul_(0.1)
        x = torch.zeros(1, 3)
        assert recurrent.probe(lambda h: cell(x, h[None])[0], torch.zeros(5)) < -1


class TestServer:
    def test_sampling_noise_is_unbiased(self) -> None:
        population = white(30, 4) + 1.0
        draw = torch_stream(5, "test cohorts")
        noise, error = [], []
        for _ in range(3000):
            cohort = population[torch.randperm(30, generator=draw)[:6]]
            noise.append(server_momentum.probe(cohort, population=30, momentum=0.9).sampling_noise)
            error.append(float(((cohort.mean(0) - population.mean(0)) ** 2).sum()))
        assert np.mean(noise) == pytest.approx(np.mean(error), rel=0.05)

    def test_agreement(self) -> None:
        same = server_momentum.probe(torch.ones(4, 3), population=10, momentum=0.5, velocity=-torch.ones(3))
        assert (same.coherence, same.sampling_noise, same.alignment) == pytest.approx((1, 0, -1), abs=1e-12)
        apart = server_momentum.probe(torch.eye(4), population=4, momentum=0.5)
        assert apart.coherence == pytest.approx(0.25) and apart.sampling_noise == 0 and math.isnan(apart.alignment)
        heavy = server_momentum.probe(torch.eye(2), population=9, momentum=0.0, weights=torch.tensor([3.0, 0.0]))
        assert heavy.coherence == pytest.approx(1)

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="2 <= S <= 3"):
            server_momentum.probe(torch.eye(4), population=3, momentum=0.5)
        with pytest.raises(ValueError, match="weights"):
            server_momentum.probe(torch.eye(4), population=9, momentum=0.5, weights=torch.zeros(4))
