"""Every rule against an outside implementation: ``torch.optim`` where it has one, else the paper's equations in numpy.

One function, ``distance``, compares two runs, and it is itself tested: it must refuse each of a list of wrong rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmomentum import trees
from fedmomentum.optim import Rule, adam, heavy_ball, lion, make_rule, nesterov, pid, rmsprop, sgd, yogi
from fedmomentum.trees import State, Tree

STEPS = 50
SHAPES = {"weight": (5, 3), "bias": (7,), "gain": (), "kernel": (2, 3, 2, 2)}
TOLERANCE = 24.0
"""Units in the last place of the largest number of a tensor, after any of 50 steps."""

Snapshot = tuple[Tree, State]
"""Parameters and the slots of the state that the outside implementation has too."""


def start(dtype: torch.dtype) -> Tree:
    rng = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype) for name, shape in SHAPES.items()}


def gradients(x: Tree, step: int) -> Tree:
    """Noise, and a pull towards the origin so that every error feeds back."""
    rng = torch.Generator().manual_seed(100 + step)
    noise = {n: torch.randn(t.shape, generator=rng, dtype=torch.float64).to(t.dtype) for n, t in x.items()}
    return {name: noise[name] + 0.25 * t for name, t in x.items()}


def run_rule(rule: Rule, dtype: torch.dtype) -> Iterator[Snapshot]:
    x = start(dtype)
    state = rule.init(x)
    for step in range(STEPS):
        updates, state = rule.update(gradients(x, step), state, x)
        x = trees.add(x, updates)
        yield x, state


def run_torch(make: Callable[[list[Tensor]], torch.optim.Optimizer], slots: dict[str, str], dtype: torch.dtype):
    x = start(dtype)
    optimizer = make(list(x.values()))
    for step in range(STEPS):
        for name, g in gradients(x, step).items():
            x[name].grad = g
        optimizer.step()
        state = {ours: {n: optimizer.state[t][theirs].clone() for n, t in x.items()} for ours, theirs in slots.items()}
        yield {name: t.clone() for name, t in x.items()}, state


Numbers = dict[str, np.ndarray]
Equations = Callable[[int, np.ndarray, np.ndarray, Numbers], tuple[np.ndarray, Numbers]]
"""``(t from 1, x, g, state) -> (x, state)`` for one array; the state starts empty."""


def run_numpy(equations: Equations, dtype: torch.dtype) -> Iterator[Snapshot]:
    x = {name: t.numpy() for name, t in start(dtype).items()}
    states: dict[str, Numbers] = {name: {} for name in x}
    for step in range(STEPS):
        g = gradients({name: torch.from_numpy(np.asarray(a)) for name, a in x.items()}, step)
        for name in x:
            x[name], states[name] = equations(step + 1, x[name], g[name].numpy(), states[name])
            assert x[name].dtype == g[name].numpy().dtype
        slots = next(iter(states.values()))
        state = {slot: {n: torch.from_numpy(np.asarray(states[n][slot])) for n in x} for slot in slots}
        yield {name: torch.from_numpy(np.asarray(a)) for name, a in x.items()}, state


def distance(ours: Iterator[Snapshot], theirs: Iterator[Snapshot]) -> float:
    """Give the largest difference of any tensor at any step, in ulps of the tensor's largest number so far."""
    worst = 0.0
    largest: dict[str, float] = {}
    for (x, state), (expected_x, expected_state) in zip(ours, theirs, strict=True):
        pairs = [(f"x.{n}", x[n], t) for n, t in expected_x.items()]
        for slot, tree in expected_state.items():
            pairs += [(f"{slot}.{n}", state[slot][n], t) for n, t in tree.items()]
        for name, a, b in pairs:
            assert a.shape == b.shape, name
            assert a.dtype == b.dtype, name
            largest[name] = max(largest.get(name, 0.0), float(b.abs().max()))
            gap = float((a.double() - b.double()).abs().max()) / (torch.finfo(b.dtype).eps * largest[name])
            worst = max(worst, gap if gap == gap else float("inf"))
    return worst


class Case(NamedTuple):
    name: str
    hyper: dict[str, Any]
    outside: Callable[[torch.dtype], Iterator[Snapshot]]


def by_torch(name: str, hyper: dict[str, Any], cls: type, slots: dict[str, str], **theirs: Any) -> Case:
    return Case(name, hyper, lambda dtype: run_torch(lambda ps: cls(ps, **theirs), slots, dtype))


def by_numpy(name: str, hyper: dict[str, Any], equations: Equations) -> Case:
    return Case(name, hyper, lambda dtype: run_numpy(equations, dtype))


def ema_equations(lr: float, beta: float) -> Equations:
    def step(t, x, g, s):
        v = beta * s.get("velocity", 0 * x) + (1 - beta) * g
        return x - lr * v, {"velocity": v}

    return step


def pid_equations(lr: float, beta: float, kp: float, ki: float, kd: float) -> Equations:
    def step(t, x, g, s):
        total, previous = s.get("total", 0 * x) + g, s.get("previous", 0 * x)
        v = beta * s.get("velocity", 0 * x) + kp * g + ki * total + kd * (g - previous)
        return x - lr * v, {"velocity": v, "total": total, "previous": g}

    return step


def decoupled_equations(lr: float, beta: float, decay: float) -> Equations:
    def step(t, x, g, s):
        v = beta * s.get("velocity", 0 * x) + g
        return x - lr * v - lr * decay * x, {"velocity": v}

    return step


def lion_equations(lr: float, b1: float, b2: float, decay: float) -> Equations:
    def step(t, x, g, s):
        m = s.get("first_moment", 0 * x)
        c = b1 * m + (1 - b1) * g
        return x - lr * (np.sign(c) + decay * x), {"first_moment": b2 * m + (1 - b2) * g}

    return step


def yogi_equations(lr: float, b1: float, b2: float, eps: float, v0: float) -> Equations:
    def step(t, x, g, s):
        m = b1 * s.get("first_moment", 0 * x) + (1 - b1) * g
        v = s.get("second_moment", 0 * x + x.dtype.type(v0))
        v = v - (1 - b2) * np.sign(v - g**2) * g**2
        return x - lr * m / (np.sqrt(v) + eps), {"first_moment": m, "second_moment": v}

    return step


def reddi_adam_equations(eta: float, b1: float, b2: float, tau: float) -> Equations:
    """Algorithm 2 of arXiv:2003.00295, for the pseudo-gradient: v starts at tau squared and nothing is corrected."""

    def step(t, x, g, s):
        m = b1 * s.get("first_moment", 0 * x) + (1 - b1) * g
        v = b2 * s.get("second_moment", 0 * x + x.dtype.type(tau**2)) + (1 - b2) * g**2
        return x - eta * m / (np.sqrt(v) + tau), {"first_moment": m, "second_moment": v}

    return step


def reddi_adagrad_equations(eta: float, b1: float, tau: float) -> Equations:
    def step(t, x, g, s):
        m = b1 * s.get("first_moment", 0 * x) + (1 - b1) * g
        v = s.get("second_moment", 0 * x + x.dtype.type(tau**2)) + g**2
        return x - eta * m / (np.sqrt(v) + tau), {"first_moment": m, "second_moment": v}

    return step


def hat_adam_equations(eta: float, b1: float, b2: float, tau: float, late: int) -> Equations:
    """Keras and TFF (late = 0) and Flower's FedAdam (late = 1): v starts at 0, only the step size is corrected."""

    def step(t, x, g, s):
        m = b1 * s.get("first_moment", 0 * x) + (1 - b1) * g
        v = b2 * s.get("second_moment", 0 * x) + (1 - b2) * g**2
        rate = eta * float(np.sqrt(1 - b2 ** (t + late))) / (1 - b1 ** (t + late))
        return x - rate * m / (np.sqrt(v) + tau), {"first_moment": m, "second_moment": v}

    return step


V = {"velocity": "momentum_buffer"}
MOMENTS = {"first_moment": "exp_avg", "second_moment": "exp_avg_sq"}
SGD, ADAM, RMS = torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop

TABLE = [
    by_torch("sgd", {"lr": 0.1}, SGD, {}, lr=0.1),
    by_torch("sgd", {"lr": 0.1, "weight_decay": 0.3}, SGD, {}, lr=0.1, weight_decay=0.3),
    by_torch("heavy_ball", {"lr": 0.05, "momentum": 0.9}, SGD, V, lr=0.05, momentum=0.9),
    by_torch("heavy_ball", {"lr": 0.05, "momentum": 0.0, "dampening": 0.5}, SGD, {}, lr=0.05, dampening=0.5),
    by_torch(
        "heavy_ball",
        {"lr": 0.05, "momentum": 0.8, "dampening": 0.4, "weight_decay": 0.1},
        SGD,
        V,
        lr=0.05,
        momentum=0.8,
        dampening=0.4,
        weight_decay=0.1,
    ),
    by_torch("nesterov", {"lr": 0.05, "momentum": 0.9}, SGD, V, lr=0.05, momentum=0.9, nesterov=True),
    by_torch(
        "nesterov",
        {"lr": 0.05, "momentum": 0.7, "weight_decay": 0.2},
        SGD,
        V,
        lr=0.05,
        momentum=0.7,
        nesterov=True,
        weight_decay=0.2,
    ),
    by_torch("adagrad", {"lr": 0.1}, torch.optim.Adagrad, {"second_moment": "sum"}, lr=0.1),
    by_torch(
        "adagrad",
        {"lr": 0.1, "initial_second_moment": 0.3, "eps": 1e-3, "weight_decay": 0.1},
        torch.optim.Adagrad,
        {"second_moment": "sum"},
        lr=0.1,
        initial_accumulator_value=0.3,
        eps=1e-3,
        weight_decay=0.1,
    ),
    by_torch("rmsprop", {"lr": 0.01}, RMS, {"mean_square": "square_avg"}, lr=0.01),
    by_torch(
        "rmsprop",
        {"lr": 0.01, "alpha": 0.9, "eps": 1e-2, "momentum": 0.8, "centered": True, "weight_decay": 0.1},
        RMS,
        {"mean_square": "square_avg", "mean": "grad_avg", "velocity": "momentum_buffer"},
        lr=0.01,
        alpha=0.9,
        eps=1e-2,
        momentum=0.8,
        centered=True,
        weight_decay=0.1,
    ),
    by_torch(
        "rmsprop",
        {"lr": 0.01, "eps": 1e-3, "momentum": 0.9},
        RMS,
        {"mean_square": "square_avg", "velocity": "momentum_buffer"},
        lr=0.01,
        eps=1e-3,
        momentum=0.9,
    ),
    by_torch("adam", {"lr": 0.01}, ADAM, MOMENTS, lr=0.01),
    by_torch(
        "adam",
        {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-2, "weight_decay": 0.2},
        ADAM,
        MOMENTS,
        lr=0.01,
        betas=(0.8, 0.95),
        eps=1e-2,
        weight_decay=0.2,
    ),
    by_torch(
        "adam",
        {"lr": 0.05, "beta2": 0.8, "amsgrad": True},
        ADAM,
        {**MOMENTS, "largest_second_moment": "max_exp_avg_sq"},
        lr=0.05,
        betas=(0.9, 0.8),
        amsgrad=True,
    ),
    by_torch("adamw", {"lr": 0.01}, torch.optim.AdamW, MOMENTS, lr=0.01),
    by_torch(
        "adamw",
        {"lr": 0.05, "weight_decay": 0.5, "amsgrad": True},
        torch.optim.AdamW,
        MOMENTS,
        lr=0.05,
        weight_decay=0.5,
        amsgrad=True,
    ),
    by_numpy("ema", {"lr": 0.1, "momentum": 0.9}, ema_equations(0.1, 0.9)),
    by_numpy(
        "pid",
        {"lr": 0.02, "momentum": 0.8, "proportional": 0.7, "integral": 0.05, "derivative": 0.6},
        pid_equations(0.02, 0.8, 0.7, 0.05, 0.6),
    ),
    by_torch(
        "pid",
        {"lr": 0.1, "momentum": 0.7, "derivative": 0.7},
        torch.optim.SGD,
        {},
        lr=0.1,
        momentum=0.7,
        nesterov=True,
    ),
    by_numpy(
        "heavy_ball",
        {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.3, "decay": "decoupled"},
        decoupled_equations(0.05, 0.9, 0.3),
    ),
    by_numpy(
        "lion",
        {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.3},
        lion_equations(0.01, 0.9, 0.99, 0.3),
    ),
    by_numpy(
        "yogi",
        {"lr": 0.02, "beta2": 0.95, "bias_correction": False, "initial_second_moment": 0.5},
        yogi_equations(0.02, 0.9, 0.95, 1e-3, 0.5),
    ),
    by_numpy(
        "adam",
        {
            "lr": 0.1,
            "beta2": 0.99,
            "eps": 0.05,
            "bias_correction": False,
            "initial_second_moment": 0.05**2,
        },
        reddi_adam_equations(0.1, 0.9, 0.99, 0.05),
    ),
    by_numpy(
        "adagrad",
        {"lr": 0.1, "beta1": 0.9, "eps": 0.05, "initial_second_moment": 0.05**2},
        reddi_adagrad_equations(0.1, 0.9, 0.05),
    ),
    by_numpy(
        "adam",
        {"lr": 0.1, "beta2": 0.99, "eps": 0.05, "eps_hat": True},
        hat_adam_equations(0.1, 0.9, 0.99, 0.05, late=0),
    ),
    by_numpy(
        "adam",
        {"lr": 0.1, "beta2": 0.99, "eps": 0.05, "eps_hat": True, "count_offset": 1},
        hat_adam_equations(0.1, 0.9, 0.99, 0.05, late=1),
    ),
]
IDS = [f"{case.name}-{i}" for i, case in enumerate(TABLE)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", TABLE, ids=IDS)
def test_rule_agrees_with_outside_implementation(case: Case, dtype: torch.dtype) -> None:
    assert distance(run_rule(make_rule(case.name, **case.hyper), dtype), case.outside(dtype)) < TOLERANCE


def flipped(rule: Rule) -> Rule:
    def update(g, s, x):
        updates, state = rule.update(g, s, x)
        return trees.scale(updates, -1.0), state

    return Rule(rule.init, update)


def forgetful(rule: Rule) -> Rule:
    """Carry no state but the count."""

    def update(g, s, x):
        updates, state = rule.update(g, s, x)
        return updates, {**s, "step": state["step"]}

    return Rule(rule.init, update)


def stopped(rule: Rule) -> Rule:
    """Never advance the count."""

    def update(g, s, x):
        updates, state = rule.update(g, s, x)
        return updates, {**state, "step": s["step"]}

    return Rule(rule.init, update)


def aged(rule: Rule) -> Rule:
    """Start the count at 1."""

    def init(x):
        return {**rule.init(x), "step": {"count": torch.ones((), dtype=torch.int64)}}

    return Rule(init, rule.update)


def case_of(name: str, **hyper: Any) -> Case:
    found = [case for case in TABLE if case.name == name and hyper.items() <= case.hyper.items()]
    return found[0]


HB = case_of("heavy_ball", dampening=0.4)
ADAM_L2 = case_of("adam", weight_decay=0.2)
AMS = case_of("adam", amsgrad=True)
CENTERED = case_of("rmsprop", centered=True)
YOGI = case_of("yogi")
LION = case_of("lion")
PID = case_of("pid")
FLOWER = case_of("adam", count_offset=1)
NAG = case_of("nesterov", weight_decay=0.2)
MUTANTS = {
    "heavy ball: sign": (HB, flipped(heavy_ball(**HB.hyper))),
    "heavy ball: no velocity": (HB, forgetful(heavy_ball(**HB.hyper))),
    "heavy ball: no momentum": (HB, heavy_ball(**{**HB.hyper, "momentum": 0.0})),
    "heavy ball: first step damped": (HB, aged(heavy_ball(**HB.hyper))),
    "heavy ball: never damped": (HB, heavy_ball(**{**HB.hyper, "dampening": 0.0})),
    "heavy ball: no decay": (HB, heavy_ball(**{**HB.hyper, "weight_decay": 0.0})),
    "heavy ball: decay beside": (HB, heavy_ball(**{**HB.hyper, "decay": "decoupled"})),
    "heavy ball: lr off by 1e-4": (HB, heavy_ball(**{**HB.hyper, "lr": 0.050005})),
    "nesterov: no look ahead": (NAG, heavy_ball(**NAG.hyper)),
    "nesterov: sgd": (NAG, sgd(lr=0.05, weight_decay=0.2)),
    "adam: sign": (ADAM_L2, flipped(adam(**ADAM_L2.hyper))),
    "adam: betas swapped": (ADAM_L2, adam(**{**ADAM_L2.hyper, "beta1": 0.95, "beta2": 0.8})),
    "adam: not corrected": (ADAM_L2, adam(**{**ADAM_L2.hyper, "bias_correction": False})),
    "adam: corrected as at the first step": (ADAM_L2, stopped(adam(**ADAM_L2.hyper))),
    "adam: corrected one step late": (ADAM_L2, aged(adam(**ADAM_L2.hyper))),
    "adam: eps in the other place": (ADAM_L2, adam(**{**ADAM_L2.hyper, "eps_hat": True})),
    "adam: decay decoupled": (ADAM_L2, adam(**{**ADAM_L2.hyper, "decay": "decoupled"})),
    "adam: yogi's second moment": (ADAM_L2, yogi(**ADAM_L2.hyper, initial_second_moment=0.0)),
    "amsgrad: adam": (AMS, adam(**{**AMS.hyper, "amsgrad": False})),
    "flower: on time": (FLOWER, adam(**{**FLOWER.hyper, "count_offset": 0})),
    "rmsprop: not centered": (CENTERED, rmsprop(**{**CENTERED.hyper, "centered": False})),
    "rmsprop: no velocity": (CENTERED, rmsprop(**{**CENTERED.hyper, "momentum": 1e-9})),
    "yogi: adam's second moment": (YOGI, adam(**YOGI.hyper, eps=1e-3)),
    "yogi: sign": (YOGI, flipped(yogi(**YOGI.hyper))),
    "lion: betas swapped": (LION, lion(**{**LION.hyper, "beta1": 0.99, "beta2": 0.9})),
    "lion: decay in the gradient": (LION, lion(**{**LION.hyper, "decay": "l2"})),
    "pid: no sum": (PID, pid(**{**PID.hyper, "integral": 0.0})),
    "pid: no change": (PID, pid(**{**PID.hyper, "derivative": 0.0})),
    "pid: gains swapped": (PID, pid(**{**PID.hyper, "integral": 0.6, "derivative": 0.05})),
    "nesterov: negative momentum": (NAG, nesterov(**{**NAG.hyper, "momentum": -0.7})),
}


def shared_slots(run: Iterator[Snapshot], rule: Rule) -> Iterator[Snapshot]:
    """Drop from the outside run the slots that a wrong rule lacks, so that it is judged by its numbers."""
    held = rule.init(start(torch.float32)).keys()
    for x, state in run:
        yield x, {slot: tree for slot, tree in state.items() if slot in held}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_comparison_refuses_a_wrong_rule(mutant: str) -> None:
    case, rule = MUTANTS[mutant]
    outside = shared_slots(case.outside(torch.float32), rule)
    assert distance(run_rule(rule, torch.float32), outside) > 10 * TOLERANCE
