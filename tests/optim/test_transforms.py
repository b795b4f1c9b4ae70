"""Clipping against torch's own, and what a chain carries."""

from __future__ import annotations

import pytest
import torch

from fedmomentum import trees
from fedmomentum.optim import adam, chain, clip_by_norm, clip_by_value, ema, expand_state, heavy_ball, sgd
from fedmomentum.trees import State, Tree


def random_tree(seed: int, size: float = 1.0) -> Tree:
    rng = torch.Generator().manual_seed(seed)
    shapes = {"weight": (4, 3), "bias": (5,), "gain": ()}
    return {n: size * torch.randn(s, generator=rng, dtype=torch.float64) for n, s in shapes.items()}


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_clip_by_norm_is_torchs(size: float) -> None:
    g = random_tree(0, size)
    rule = clip_by_norm(1.5)
    clipped, _ = rule.update(g, rule.init(g), g)
    theirs = [torch.nn.Parameter(torch.zeros_like(t)) for t in g.values()]
    for p, t in zip(theirs, g.values(), strict=True):
        p.grad = t.clone()
    torch.nn.utils.clip_grad_norm_(theirs, 1.5)
    for ours, p in zip(clipped.values(), theirs, strict=True):
        torch.testing.assert_close(ours, p.grad, rtol=2e-6, atol=0.0)  # torch adds 1e-6 to the norm
    assert float(trees.norm(clipped)) == pytest.approx(min(1.5, float(trees.norm(g))), rel=1e-14)


def test_each_stacked_copy_has_its_own_norm() -> None:
    copies = [random_tree(k, 10.0**k) for k in range(-1, 2)]
    rule = clip_by_norm(1.0)
    state = expand_state(rule.init(copies[0]), 3)
    clipped, _ = rule.update(trees.stack(copies), state, trees.stack(copies))
    for k, g in enumerate(copies):
        alone, _ = rule.update(g, rule.init(g), g)
        for name in g:
            torch.testing.assert_close(clipped[name][k], alone[name], rtol=1e-15, atol=0.0)


def test_a_zero_gradient_stays_zero_and_a_broken_one_is_not_hidden() -> None:
    rule = clip_by_norm(1.0)
    zero = {"a": torch.zeros(3), "b": torch.zeros(2)}
    clipped, _ = rule.update(zero, rule.init(zero), zero)
    assert all(torch.equal(t, zero[n]) for n, t in clipped.items())
    for bad in (float("nan"), float("inf")):
        g = {"a": torch.tensor([1.0, bad, 1.0]), "b": torch.zeros(2)}
        clipped, _ = rule.update(g, rule.init(g), g)
        assert all(bool(torch.isnan(t).all()) for t in clipped.values())


def test_clip_by_value_cuts_each_coordinate() -> None:
    g = {"w": torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0])}
    rule = clip_by_value(1.0)
    clipped, _ = rule.update(g, rule.init(g), g)
    assert clipped["w"].tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    rule = clip_by_value(torch.tensor([1.0, 0.25]))
    state = expand_state(rule.init(g), 2)
    clipped, _ = rule.update(trees.expand(g, 2), state, trees.expand(g, 2))
    assert clipped["w"].tolist() == [[-1.0, -0.5, 0.0, 0.5, 1.0], [-0.25, -0.25, 0.0, 0.25, 0.25]]


def run(rule, steps: int = 6) -> tuple[Tree, State]:
    x = random_tree(99)
    state = rule.init(x)
    for step in range(steps):
        updates, state = rule.update(random_tree(step, 5.0), state, x)
        x = trees.add(x, updates)
    return x, state


def same(a: Tree, b: Tree) -> bool:
    trees.same_layout(a, b)
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_chain_feeds_each_rule_with_the_one_before() -> None:
    clip, rule = clip_by_norm(1.0), heavy_ball(lr=0.1)
    x, state = run(chain(clip, rule))
    y = random_tree(99)
    own = rule.init(y)
    for step in range(6):
        g, _ = clip.update(random_tree(step, 5.0), clip.init(y), y)
        updates, own = rule.update(g, own, y)
        y = trees.add(y, updates)
    assert same(x, y)
    assert state.keys() == own.keys()
    assert all(same(state[slot], own[slot]) for slot in own)
    assert int(state["step"]["count"]) == 6
    assert not same(x, run(rule)[0])
    assert same(run(chain(rule))[0], run(rule)[0])


def test_rules_with_the_same_slots_do_not_mix_in_a_chain() -> None:
    """Two averages in a row are a filter of order two; nesting a chain in a chain changes nothing but names."""
    a, b, c = ema(lr=1.0, momentum=0.5), ema(lr=1.0, momentum=0.9), adam(lr=0.1)
    flat, state = run(chain(a, b, c))
    assert same(run(chain(chain(a, b), c))[0], flat)
    assert same(run(chain(a, chain(b, c)))[0], flat)
    assert not same(run(chain(b, b, c))[0], flat)
    assert set(state) == {"0.velocity", "1.velocity", "first_moment", "second_moment", "step"}
    assert set(run(chain(a, chain(b, c)))[1]) == {
        "0.velocity",
        "1.0.velocity",
        "first_moment",
        "second_moment",
        "step",
    }
    g = random_tree(0)
    one = chain(a, b)
    updates, _ = one.update(g, one.init(g), g)
    for name in g:
        torch.testing.assert_close(updates[name], 0.05 * g[name], rtol=1e-14, atol=0.0)


def test_an_empty_chain_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one rule"):
        chain()
    with pytest.raises(ValueError, match="max_norm must be a finite number of at least 0, not -1"):
        chain(clip_by_norm(-1.0), sgd(lr=0.1))
