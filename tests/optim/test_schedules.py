"""Schedules against torch's schedulers, and their corners."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from fedmomentum import trees
from fedmomentum.optim import (
    SCHEDULES,
    Constant,
    Cosine,
    HyperparameterError,
    StepDecay,
    Warmup,
    make_schedule,
    sgd,
)


def torch_rates(make: Any, lr: float, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (StepDecay(value=0.3, every=4, factor=0.5), lambda o: torch.optim.lr_scheduler.StepLR(o, 4, 0.5)),
        (Cosine(value=0.3, steps=20), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20)),
        (Cosine(value=0.3, steps=20, floor=0.05), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20, 0.05)),
        (Constant(value=0.3), lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda _: 1.0)),
        (
            Warmup(Constant(value=0.3), 4),
            lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=1 / 5, end_factor=1.0, total_iters=4),
        ),
    ],
    ids=["step", "cosine", "cosine-floor", "constant", "warmup"],
)
def test_schedule_is_torchs(ours: Any, theirs: Any) -> None:
    expected = torch_rates(theirs, 0.3, 21)
    assert [ours(step) for step in range(21)] == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_cosine_rests_at_the_floor() -> None:
    schedule = Cosine(value=1.0, steps=10, floor=0.25)
    assert schedule(5) == pytest.approx(0.625, rel=1e-15)
    assert [schedule(t) for t in (10, 11, 1000)] == [0.25, 0.25, 0.25]


def test_warmup_shifts_what_follows() -> None:
    inner = Cosine(value=0.8, steps=6)
    schedule = make_schedule("cosine", value=0.8, steps=6, warmup=3)
    assert schedule == Warmup(inner, 3)
    assert [schedule(t) for t in range(3)] == pytest.approx([0.2, 0.4, 0.6], rel=1e-15)
    assert [schedule(3 + t) for t in range(8)] == [inner(t) for t in range(8)]


def test_a_rule_follows_its_schedule() -> None:
    schedule = make_schedule("step", value=0.5, every=2, factor=0.5, warmup=1)
    rule = sgd(lr=schedule)
    x = {"w": torch.zeros(1, dtype=torch.float64)}
    state = rule.init(x)
    for step in range(7):
        updates, state = rule.update({"w": torch.ones(1, dtype=torch.float64)}, state, x)
        x = trees.add(x, updates)
        assert updates["w"].item() == -schedule(step)
    assert x["w"].item() == pytest.approx(-(0.25 + 0.5 + 0.5 + 0.25 + 0.25 + 0.125 + 0.125), rel=1e-15)


@pytest.mark.parametrize("bad", [float("nan"), -0.1, float("inf")])
def test_a_schedule_that_leaves_the_range_is_refused(bad: float) -> None:
    rule = sgd(lr=lambda step: 0.1 if step == 0 else bad)
    x = {"w": torch.zeros(2)}
    _, state = rule.update(x, rule.init(x), x)
    with pytest.raises(HyperparameterError, match=r"lr schedule .* \(step 1\)"):
        rule.update(x, state, x)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosin", {}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ("cosine", {"value": 0.1, "step": 4}, "did you mean 'steps'"),
        ("cosine", {"value": 0.1}, "needs steps"),
        ("cosine", {"value": 0.1, "steps": 0}, "steps must be a whole number of at least 1, not 0"),
        ("cosine", {"value": 0.1, "steps": 5, "floor": 0.2}, "value must be a finite number of at least 0.2, not 0.1"),
        ("step", {"value": 0.1, "every": 2.5}, "every must be a whole number"),
        ("step", {"value": 0.1, "every": 2, "factor": 1.5}, r"factor must be in \[0, 1\], not 1.5"),
        ("constant", {"value": -1}, "value must be a finite number of at least 0, not -1"),
        ("constant", {"value": 1, "warmup": -1}, "warmup must be a whole number of at least 0"),
        ("constant", {"value": 1, "warmpu": 1}, "did you mean 'warmup'"),
    ],
)
def test_wrong_schedules_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        make_schedule(name, **options)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_plain_data(name: str) -> None:
    options = {"constant": {}, "step": {"every": 3}, "cosine": {"steps": 9}}[name]
    schedule = make_schedule(name, value=0.1, warmup=2, **options)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
