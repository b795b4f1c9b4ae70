"""K stacked copies are K separate runs, bit for bit, whatever differs between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fedmomentum import trees
from fedmomentum.optim import Rule, StepDecay, chain, clip_by_norm, clip_by_value, ema, expand_state, make_rule
from fedmomentum.trees import State, Tree

K = 3
SHAPES = {"weight": (17, 5), "bias": (7,), "gain": ()}


def per_copy(*values: float) -> torch.Tensor:
    return torch.tensor(values)


RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("sgd", {"lr": per_copy(0.1, 0.2, 0.3), "weight_decay": per_copy(0.0, 0.1, 0.2)}),
    "heavy_ball": (
        "heavy_ball",
        {"lr": per_copy(0.1, 0.02, 0.3), "momentum": per_copy(0.9, 0.0, -0.5), "dampening": per_copy(0.0, 0.5, 0.3)},
    ),
    "ema": (
        "ema",
        {"lr": 0.1, "momentum": per_copy(0.9, 0.7, 0.1), "weight_decay": per_copy(0.1, 0, 0.3), "decay": "decoupled"},
    ),
    "nesterov": ("nesterov", {"lr": per_copy(0.1, 0.02, 0.3), "momentum": per_copy(0.9, 0.0, 0.5)}),
    "adagrad": ("adagrad", {"lr": per_copy(0.1, 0.2, 0.3), "beta1": per_copy(0.2, 0.9, 0.5), "eps": 1e-3}),
    "rmsprop": (
        "rmsprop",
        {
            "lr": 0.01,
            "alpha": per_copy(0.9, 0.99, 0.5),
            "momentum": per_copy(0.1, 0.9, 0.3),
            "eps": per_copy(0.1, 0.2, 0.01),
            "centered": True,
        },
    ),
    "adam": (
        "adam",
        {
            "lr": per_copy(0.1, 0.01, 0.003),
            "beta1": per_copy(0.9, 0.0, 0.8),
            "beta2": per_copy(0.999, 0.9, 0.95),
            "eps": per_copy(1e-8, 1e-3, 0.1),
        },
    ),
    "amsgrad": ("adam", {"lr": 0.1, "amsgrad": True, "beta2": per_copy(0.5, 0.9, 0.99)}),
    "adamw": ("adamw", {"lr": per_copy(0.1, 0.01, 0.003), "weight_decay": 0.1}),
    "yogi": ("yogi", {"lr": 0.1, "beta2": per_copy(0.999, 0.9, 0.95)}),
    "lion": ("lion", {"lr": per_copy(0.1, 0.01, 0.003), "beta1": per_copy(0.9, 0.5, 0.0), "weight_decay": 0.1}),
    "pid": (
        "pid",
        {"lr": per_copy(0.1, 0.02, 0.3), "integral": per_copy(0.0, 0.1, 0.02), "derivative": per_copy(0.9, 0.0, 0.5)},
    ),
    "schedule": ("adam", {"lr": StepDecay(value=0.1, every=3, factor=0.5)}),
}


def of_copy(hyper: dict[str, Any], k: int) -> dict[str, Any]:
    return {key: float(v[k]) if isinstance(v, torch.Tensor) else v for key, v in hyper.items()}


def random_tree(seed: int, dtype: torch.dtype) -> Tree:
    rng = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=rng, dtype=torch.float64).to(dtype) for n, s in SHAPES.items()}


def stack_states(states: list[State]) -> State:
    return {slot: trees.stack([state[slot] for state in states]) for slot in states[0]}


def assert_stacked_is_separate(make: Callable[[int | None], Rule], dtype: torch.dtype, ages: tuple[int, ...]) -> None:
    """Run K rules apart and one rule on the stack, where copy k has done ``ages[k]`` steps before."""
    apart = [make(k) for k in range(K)]
    xs = [random_tree(k, dtype) for k in range(K)]
    states = [rule.init(x) for rule, x in zip(apart, xs, strict=True)]

    def advance(k: int, step: int) -> None:
        updates, states[k] = apart[k].update(random_tree(1000 + 10 * step + k, dtype), states[k], xs[k])
        xs[k] = trees.add(xs[k], updates)

    for k, age in enumerate(ages):
        for step in range(age):
            advance(k, 500 + step)
    together = make(None)
    x, state = trees.stack(xs), stack_states(states)
    for step in range(12):
        updates, state = together.update(
            trees.stack([random_tree(1000 + 10 * step + k, dtype) for k in range(K)]), state, x
        )
        x = trees.add(x, updates)
        for k in range(K):
            advance(k, step)
        expected = {"x": trees.stack(xs), **stack_states(states)}
        for slot, tree in {"x": x, **state}.items():
            for name, tensor in tree.items():
                assert torch.equal(tensor, expected[slot][name]), f"{slot}.{name} after step {step}"
                assert tensor.dtype == expected[slot][name].dtype


@pytest.mark.parametrize("ages", [(0, 0, 0), (0, 2, 5)], ids=["same-age", "ages-differ"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", RULES)
def test_stacked_copies_are_separate_runs(name: str, dtype: torch.dtype, ages: tuple[int, ...]) -> None:
    factory, hyper = RULES[name]
    assert_stacked_is_separate(lambda k: make_rule(factory, **(hyper if k is None else of_copy(hyper, k))), dtype, ages)


@pytest.mark.parametrize("ages", [(0, 0, 0), (0, 2, 5)], ids=["same-age", "ages-differ"])
def test_chains_stack_too(ages: tuple[int, ...]) -> None:
    bounds = per_copy(0.5, 2.0, 1e9)
    assert_stacked_is_separate(
        lambda k: chain(
            clip_by_value(per_copy(1.0, 0.3, 0.7) if k is None else float(per_copy(1.0, 0.3, 0.7)[k])),
            clip_by_norm(bounds if k is None else float(bounds[k])),
            make_rule("adam", lr=0.1),
        ),
        torch.float32,
        ages,
    )


def test_expand_state_gives_the_state_of_equal_copies() -> None:
    rule = make_rule("adam", lr=0.1)
    x = random_tree(0, torch.float32)
    _, state = rule.update(random_tree(1, torch.float32), rule.init(x), x)
    wide = expand_state(state, 4)
    assert wide["step"]["count"].tolist() == [1, 1, 1, 1]
    updates, wide = rule.update(trees.expand(random_tree(2, torch.float32), 4), wide, trees.expand(x, 4))
    single, state = rule.update(random_tree(2, torch.float32), state, x)
    for name in x:
        assert torch.equal(updates[name], single[name].expand_as(updates[name]))
        for slot in ("first_moment", "second_moment"):
            assert torch.equal(wide[slot][name], state[slot][name].expand_as(wide[slot][name]))


def test_two_leading_axes() -> None:
    """A grid of hyperparameters over clients: lr differs along the first axis only."""
    rule = make_rule("adam", lr=per_copy(0.1, 0.01))
    x = random_tree(0, torch.float32)
    g = random_tree(1, torch.float32)
    state = expand_state(expand_state(rule.init(x), 3), 2)
    wide_x, wide_g = (trees.expand(trees.expand(t, 3), 2) for t in (x, g))
    updates, _ = rule.update(wide_g, state, wide_x)
    for i, lr in enumerate(per_copy(0.1, 0.01).tolist()):
        single = make_rule("adam", lr=lr)
        expected, _ = single.update(g, single.init(x), x)
        for name in x:
            assert torch.equal(updates[name][i], expected[name].expand_as(updates[name][i]))


@pytest.mark.parametrize("name", RULES)
def test_nothing_is_changed_in_place(name: str) -> None:
    factory, hyper = RULES[name]
    rule = make_rule(factory, **of_copy(hyper, 1))
    chained = chain(ema(lr=1.0), rule)
    for r in (rule, chained):
        x, g = random_tree(0, torch.float32), random_tree(1, torch.float32)
        _, state = r.update(g, r.init(x), x)
        before = {"x": trees.map_tree(torch.clone, x), "g": trees.map_tree(torch.clone, g)} | {
            slot: trees.map_tree(torch.clone, tree) for slot, tree in state.items()
        }
        updates, following = r.update(g, state, x)
        for slot, tree in {"x": x, "g": g, **state}.items():
            for tensor_name, tensor in tree.items():
                assert torch.equal(tensor, before[slot][tensor_name]), f"{slot}.{tensor_name}"
        held = {t.data_ptr() for tree in (x, g, *following.values()) for t in tree.values()}
        assert not held & {t.data_ptr() for t in updates.values()}


def test_a_state_of_another_layout_is_refused() -> None:
    rule = make_rule("heavy_ball", lr=0.1)
    x = random_tree(0, torch.float32)
    stacked = trees.expand(x, K)
    with pytest.raises(ValueError, match="'weight' has shape"):
        rule.update(stacked, rule.init(x), stacked)
    with pytest.raises(KeyError, match="'gain'"):
        rule.update({n: x[n] for n in ("weight", "bias")}, rule.init(x), x)
    with pytest.raises(ValueError, match="does not lead"):
        wrong = make_rule("heavy_ball", lr=per_copy(0.1, 0.2))
        wrong.update(stacked, expand_state(wrong.init(x), K), stacked)
