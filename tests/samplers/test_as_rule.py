"""Samplers as rules: pure, stackable, descent without heat, the right law with it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fedmomentum.errors import UserError
from fedmomentum.samplers import as_rule, rekey, run, underdamped_langevin
from fedmomentum.streams import key
from fedmomentum.trees import State, Tree, add, expand, stack, unstack

NAMES = ["sgld", "sghmc", "underdamped_langevin"]
PARAMS = {
    "w": torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64),
    "b": torch.tensor([0.3], dtype=torch.float64),
}
CURVATURES = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def gradient(params: Tree) -> Tree:
    return {"w": 1.5 * params["w"], "b": params["b"] - 1.0}


def follow(name: str, params: Tree, steps: int, state: State | None = None, **options: object) -> tuple[Tree, State]:
    rule = as_rule(name, **options)  # type: ignore[arg-type]
    state = rule.init(params) if state is None else state
    for _ in range(steps):
        updates, state = rule.update(gradient(params), state, params)
        params = add(params, updates)
    return params, state


@pytest.mark.parametrize(("name", "momentum"), [("sgld", 0.0), ("sghmc", 0.8)])
def test_without_heat_it_is_torchs_sgd(name: str, momentum: float) -> None:
    found, _ = follow(name, PARAMS, 6, lr=0.1, temperature=0.0, friction=0.2)
    leaves = {n: x.clone().requires_grad_() for n, x in PARAMS.items()}
    sgd = torch.optim.SGD(leaves.values(), lr=0.1, momentum=momentum)
    for _ in range(6):
        for n, g in gradient({n: x.detach() for n, x in leaves.items()}).items():
            leaves[n].grad = g
        sgd.step()
    for n in PARAMS:
        torch.testing.assert_close(found[n], leaves[n].detach(), rtol=1e-13, atol=1e-15)


def test_without_heat_baoab_is_the_kernel() -> None:
    """Time step ``sqrt(lr)``; a share ``friction`` of velocity a step is a rate ``-log(1 - friction) / sqrt(lr)``."""
    found, _ = follow("underdamped_langevin", PARAMS, 6, lr=0.09, temperature=0.0, friction=0.2)
    kernel = underdamped_langevin(gradient=gradient, step_size=0.3, friction=-math.log(0.8) / 0.3, temperature=0.0)
    wanted = run(kernel, expand(PARAMS, 1), 6).samples
    for n in PARAMS:
        torch.testing.assert_close(found[n], wanted[n][-1, 0], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_stationary_variance(name: str) -> None:
    """20000 stacked models on three curvatures reach the variance of the theory, at temperature 1/2."""
    lr, friction, heat = 0.4, 0.3, 0.5
    rule = as_rule(name, lr=lr, friction=friction, temperature=heat, seed=3)
    x = {"x": torch.zeros(20000, 3, dtype=torch.float64)}
    state = rule.init(x)
    total, steps = torch.zeros(3, dtype=torch.float64), 50
    for t in range(40 + steps):
        updates, state = rule.update({"x": CURVATURES * x["x"]}, state, x)
        x = add(x, updates)
        total += x["x"].var(0) / steps if t >= 40 else 0.0
    law = {
        "sgld": heat / CURVATURES / (1 - lr * CURVATURES / 2),
        "sghmc": heat / CURVATURES / (1 - lr * CURVATURES / (2 * (2 - friction))),
        "underdamped_langevin": heat / CURVATURES,
    }[name]
    torch.testing.assert_close(total, law, rtol=0.015, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_pure_and_repeatable(name: str) -> None:
    rule = as_rule(name, lr=0.1)
    state = rule.init(PARAMS)
    once, again = (rule.update(gradient(PARAMS), state, PARAMS)[0] for _ in range(2))
    _, later = rule.update(gradient(PARAMS), state, PARAMS)
    then = rule.update(gradient(PARAMS), later, PARAMS)[0]
    assert torch.equal(once["w"], again["w"])
    assert int(state["step"]["count"]) == 0 and int(later["step"]["count"]) == 1
    assert not torch.equal(once["w"], then["w"])
    other = as_rule(name, lr=0.1, seed=1)
    assert not torch.equal(once["w"], other.update(gradient(PARAMS), other.init(PARAMS), PARAMS)[0]["w"])


@pytest.mark.parametrize("name", NAMES)
def test_stacked_clients_are_single_clients(name: str) -> None:
    """K clients with keys, rates, temperatures and frictions of their own, side by side or one by one."""
    lrs, heats, frictions = torch.tensor([0.1, 0.2, 0.05]), torch.tensor([1.0, 0.0, 0.3]), torch.tensor([0.1, 0.5, 0.9])
    keys = [key(0, "noise", client=c) for c in range(3)]
    starts: list[Tree] = [{n: x + c for n, x in PARAMS.items()} for c in range(3)]
    rule = as_rule(name, lr=0.1)
    state = rekey({slot: expand(tree, 3) for slot, tree in rule.init(PARAMS).items()}, torch.tensor(keys))
    together, _ = follow(name, stack(starts), 4, state, lr=lrs, temperature=heats, friction=frictions)
    for c, found in enumerate(unstack(together)):
        own = rekey(rule.init(PARAMS), keys[c])
        options = {"lr": float(lrs[c]), "temperature": float(heats[c]), "friction": float(frictions[c])}
        wanted, _ = follow(name, starts[c], 4, own, **options)
        for n in wanted:
            torch.testing.assert_close(found[n], wanted[n], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_clients_with_keys_of_their_own_are_independent(name: str) -> None:
    rule = as_rule(name, lr=0.1)
    zeros = {"w": torch.zeros(2, 4000)}
    copies = {slot: expand(tree, 2) for slot, tree in rule.init({"w": zeros["w"][0]}).items()}

    def correlation(state: State) -> float:
        update: Tensor = rule.update(zeros, state, zeros)[0]["w"]
        return float(torch.corrcoef(update)[0, 1])

    assert correlation(copies) == pytest.approx(1.0)  # why rekey exists
    assert abs(correlation(rekey(copies, torch.tensor([5, 6])))) < 4.5 / 4000**0.5
    with pytest.raises(ValueError, match="leading axes"):
        rekey(copies, 3)


def test_a_schedule_is_read_at_the_count_of_each_client() -> None:
    rule = as_rule("sgld", lr=lambda t: 0.1 / (1 + t), temperature=0.0)
    params: Tree = {"w": torch.ones(2, 3)}
    state = {slot: expand(tree, 2) for slot, tree in rule.init({"w": torch.ones(3)}).items()}
    state["step"] = {"count": torch.tensor([0, 4])}
    updates, _ = rule.update({"w": torch.ones(2, 3)}, state, params)
    torch.testing.assert_close(updates["w"][:, 0], torch.tensor([-0.1, -0.02]))


def test_an_unknown_name_is_answered_with_the_near_one() -> None:
    with pytest.raises(UserError, match="did you mean 'sghmc'"):
        as_rule("sghmcc", lr=0.1)
