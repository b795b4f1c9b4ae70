"""Claims must fail when the rule is not what it says, and when the closed form is not right."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from fedmomentum.analogies import ANALOGIES, decayed_digits, linear, pd_control, plateau, spring, weight_decay
from fedmomentum.analogies.shrinkage import predict_shrinkage
from fedmomentum.optim import Rule
from fedmomentum.optim import make_rule as honest

FAST: dict[str, dict[str, Any]] = {
    "ravine": {"condition": 50.0, "rules": ("heavy_ball",)},
    "server_momentum": {"replicas": 200, "rounds": 200},
    "temperature": {"chains": 1500},
    "phase_space": {"chains": 1500, "steps": 200, "lr": 0.1},
    "low_pass": {"form": "heavy_ball", "steps": 2000},
    "spring": {"lr": 0.05, "steps": 200},
    # At momentum -0.5 the damping is greatest, so a little more or less would go unseen.
    "games": {"momentum_x": 0.3},
    "plateau": {"lr": 1e-3, "momentum": 0.9},
}


def no_velocity(name: str, **hyper: Any) -> Rule:
    hyper = {k: v for k, v in hyper.items() if k != "momentum"}
    return honest("sgd" if name in linear.FORMS else name, **hyper)


def other_form(name: str, **hyper: Any) -> Rule:
    return honest({"heavy_ball": "nesterov", "ema": "heavy_ball"}.get(name, name), **hyper)


def weaker_momentum(name: str, **hyper: Any) -> Rule:
    if "momentum" in hyper:
        hyper["momentum"] = hyper["momentum"] * 0.9
    return honest(name, **hyper)


def larger_rate(name: str, **hyper: Any) -> Rule:
    return honest(name, **{**hyper, "lr": hyper["lr"] * 1.3})


def wrong_sign(name: str, **hyper: Any) -> Rule:
    rule = honest(name, **hyper)

    def update(grads: Any, state: Any, params: Any) -> Any:
        updates, state = rule.update(grads, state, params)
        return {n: -u for n, u in updates.items()}, state

    return Rule(rule.init, update)


def fails(name: str, options: dict[str, Any]) -> bool:
    """Whether the experiment notices: a claim that does not hold, or an orbit that leaves the numbers."""
    try:
        return not ANALOGIES[name].simulate(**options).holds
    except (ValueError, ArithmeticError, IndexError):
        return True


@pytest.mark.timeout(60)
@pytest.mark.parametrize("mutant", [no_velocity, other_form, weaker_momentum, larger_rate, wrong_sign])
@pytest.mark.parametrize("name", [name for name in ANALOGIES if name != "plateau"])
def test_a_wrong_rule_is_noticed(name: str, mutant: Callable[..., Rule], monkeypatch: pytest.MonkeyPatch) -> None:
    module = __import__(f"fedmomentum.analogies.{name}", fromlist=["make_rule"])
    monkeypatch.setattr(module, "make_rule", mutant)
    assert fails(name, FAST.get(name, {}))


@pytest.mark.parametrize("mutant", [no_velocity, other_form, weaker_momentum])
def test_a_wrong_rule_is_noticed_on_the_plateau(mutant: Callable[..., Rule], monkeypatch: pytest.MonkeyPatch) -> None:
    # (A rule of the wrong sign never crosses, which takes long to find out; a rate has no reference here but itself.)
    monkeypatch.setattr(plateau, "make_rule", mutant)
    assert fails("plateau", FAST["plateau"])


FIELDS = [
    ("spring", "radius"),
    ("spring", "damping_ratio"),
    ("spring", "period"),
    ("spring", "critical_momentum"),
    ("pd_control", "proportional"),
    ("pd_control", "derivative"),
    ("pd_control", "delay_margin"),
    ("pd_control", "ramp_lag"),
    ("plateau", "steps"),
    ("plateau", "throw"),
    ("weight_decay", "l2"),
    ("weight_decay", "decoupled"),
    ("weight_decay", "decoupled_ema"),
    ("weight_decay", "adamw"),
    ("weight_decay", "balance_norm"),
    ("weight_decay", "turn"),
    ("batch_norm", "statistics"),
    ("batch_norm", "optimizer"),
    ("batch_norm", "lowest"),
    ("low_pass", "dc_gain"),
    ("low_pass", "cutoff"),
    ("low_pass", "delay"),
    ("low_pass", "noise_gain"),
    ("temperature", "temperature"),
    ("temperature", "variance"),
    ("temperature", "kinetic"),
    ("recurrent", "curvature"),
    ("recurrent", "safe_lr"),
    ("recurrent", "largest_step"),
    ("server_momentum", "variance"),
    ("server_momentum", "ratio_at_lr"),
    ("server_momentum", "ratio_at_step"),
    ("server_momentum", "buffer"),
]


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_a_wrong_prediction_is_noticed(name: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = __import__(f"fedmomentum.analogies.{name}", fromlist=["predict"])
    right = module.predict

    def wrong(**options: Any) -> Any:
        answer = right(**options)
        value = getattr(answer, field)
        return dataclasses.replace(answer, **{field: math.ceil(1.2 * value) if isinstance(value, int) else 1.2 * value})

    monkeypatch.setattr(module, "predict", wrong)
    assert fails(name, FAST.get(name, {}))


def test_the_backward_difference_is_not_the_damping_ratio() -> None:
    expected = spring.predict(lr=0.04, curvature=1.0, momentum=0.7)
    measured = spring.simulate(lr=0.04, momentum=0.7)["damping ratio"]
    assert measured.holds
    for approximate in (expected.damping_ratio_backward, expected.damping_ratio_central):
        assert not dataclasses.replace(measured, predicted=approximate).holds
    assert abs(expected.damping_ratio_central - expected.damping_ratio) < 0.2 * abs(
        expected.damping_ratio_backward - expected.damping_ratio
    )


def test_without_its_derivative_the_pid_is_not_nesterov(monkeypatch: pytest.MonkeyPatch) -> None:
    right = pd_control.pid
    monkeypatch.setattr(pd_control, "pid", lambda **k: right(**{**k, "derivative": 0.0}))
    assert not pd_control.simulate()["PID with kD = beta is nesterov"].holds


def test_a_decay_attached_at_the_wrong_place_is_noticed_on_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = {"adam": "adamw", "adamw": "adam"}
    monkeypatch.setattr(decayed_digits, "_adaptive", decayed_digits._adaptive.__wrapped__)
    monkeypatch.setattr(decayed_digits, "make_rule", lambda name, **h: honest(swapped.get(name, name), **h))
    monkeypatch.setattr(weight_decay, "at_rest", lambda decay, **h: decayed_digits.minimiser(0.02))
    wrong = {claim.name for claim in weight_decay._digits(0.0) if not claim.holds}
    assert wrong == {
        "digits: adam with l2 is off the optimum of decay 0.02 by",
        "digits: adamw rests at the least loss of the box",
        "digits: adamw, weights the loss pushes on",
        "digits: adamw, largest weight",
    }


@pytest.mark.parametrize(
    "mutant",
    [
        lambda kind, **h: predict_shrinkage("decoupled" if kind == "adam l2" else kind, **h),
        lambda kind, **h: predict_shrinkage("adam l2" if kind == "adamw" else kind, **h),
        lambda kind, *, momentum, size: predict_shrinkage(kind, momentum=momentum, size=size**2),
        lambda kind, *, momentum, size: predict_shrinkage(kind, momentum=0.0, size=size),
        lambda kind, **h: 1.1 * predict_shrinkage(kind, **h),
    ],
    ids=["adam shrinks alike", "adamw divides", "variance for its root", "no momentum", "ten percent"],
)
def test_a_wrong_shrinkage_is_noticed(mutant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(claim.holds for claim in weight_decay._shrinkage(0.9, 0))
    monkeypatch.setattr(weight_decay, "predict_shrinkage", mutant)
    assert not all(claim.holds for claim in weight_decay._shrinkage(0.9, 0))


def test_adams_shrinkage_needs_its_second_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    def undivided(name: str, **hyper: Any) -> Rule:
        hyper = {k: v for k, v in hyper.items() if k != "beta2"} | {"momentum": hyper.pop("beta1", 0.0)}
        return honest("ema", **{k: v for k, v in hyper.items() if k != "beta1"})

    monkeypatch.setattr(weight_decay, "make_rule", lambda n, **h: undivided(n, **h) if n == "adam" else honest(n, **h))
    wrong = [claim.name for claim in weight_decay._shrinkage(0.5, 0) if not claim.holds]
    assert len(wrong) == 3 and all("adam l2" in name for name in wrong)
