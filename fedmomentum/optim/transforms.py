"""Gradient transforms: rules whose output is the gradient that the next rule sees."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedmomentum.optim.hyper import Hyper, checked, fit
from fedmomentum.optim.rule import Rule
from fedmomentum.trees import State, Tree, norm


def chain(*rules: Rule) -> Rule:
    """Give each rule's output to the next as its gradient; the last one gives the updates.

    All see one count of steps, which the last rule advances. Slots of the last rule keep their names; those of the
    ``i``-th before it, from 0, are called ``"i.name"``.

    Example:
        >>> rule = chain(clip_by_norm(1.0), heavy_ball(lr=0.1, momentum=0.9))

    Raises:
        ValueError: there is no rule.
    """
    if not rules:
        raise ValueError("chain needs at least one rule")
    last = len(rules) - 1

    def init(params: Mapping[str, Tensor], /) -> State:
        state: State = {}
        for place, rule in enumerate(rules):
            for slot, tree in rule.init(params).items():
                state["step" if slot == "step" else _outer(place, slot, last)] = tree
        return state

    def update(grads: Mapping[str, Tensor], state: State, params: Mapping[str, Tensor], /) -> tuple[Tree, State]:
        step = state["step"]
        held: list[State] = [{"step": step} for _ in rules]
        for slot, tree in state.items():
            if slot != "step":
                place, own = _inner(slot, last)
                held[place][own] = tree
        new: State = {}
        out: Tree = dict(grads)
        for place, rule in enumerate(rules):
            out, kept = rule.update(out, held[place], params)
            step = kept["step"]
            new |= {_outer(place, slot, last): tree for slot, tree in kept.items() if slot != "step"}
        new["step"] = step
        return out, new

    return Rule(init, update)


def _outer(place: int, slot: str, last: int) -> str:
    """Give the chain's name of a rule's slot. One that starts with a digit belongs to a chain that ends this one."""
    return slot if place == last and not slot[0].isdigit() else f"{place}.{slot}"


def _inner(slot: str, last: int) -> tuple[int, str]:
    """Undo :func:`_outer`: give the place in the chain, and the rule's own name of the slot."""
    if not slot[0].isdigit():
        return last, slot
    place, _, own = slot.partition(".")
    return int(place), own


def clip_by_norm(max_norm: Hyper) -> Rule:
    """Shorten a gradient that is longer than allowed: ``g <- g min(1, max_norm / |g|)``, per model.

    The norm is the Euclidean one over all tensors of the tree, in float64; each stacked copy has its own (the leading
    axes are those of ``state["step"]["count"]``). A norm that is not finite makes the gradient NaN: it is not hidden.

    Args:
        max_norm: at least 0: a number or ``[K]``.

    Raises:
        HyperparameterError: ``max_norm`` is out of range.

    Reference: arXiv:1211.5063.
    """
    limit = checked("max_norm", max_norm, 0.0)

    def update(grads: Mapping[str, Tensor], state: State, params: Mapping[str, Tensor], /) -> tuple[Tree, State]:
        length = norm(grads, leading=state["step"]["count"].ndim)
        allowed = fit(limit, length)
        factor = torch.where(length > allowed, allowed / length, 1.0)
        factor = torch.where(length.isfinite(), factor, torch.nan)
        return {name: g * fit(factor, g) for name, g in grads.items()}, _counted(state)

    return Rule(_only_count, update)


def clip_by_value(limit: Hyper) -> Rule:
    """Cut every coordinate: ``g <- min(max(g, -limit), limit)``.

    Args:
        limit: at least 0: a number or ``[K]``.

    Raises:
        HyperparameterError: ``limit`` is out of range.
    """
    bound = checked("limit", limit, 0.0)

    def update(grads: Mapping[str, Tensor], state: State, params: Mapping[str, Tensor], /) -> tuple[Tree, State]:
        return {name: _clamp(g, fit(bound, g)) for name, g in grads.items()}, _counted(state)

    return Rule(_only_count, update)


def _clamp(g: Tensor, bound: Hyper) -> Tensor:
    if isinstance(bound, Tensor):
        return torch.minimum(torch.maximum(g, -bound), bound)
    return g.clamp(-bound, bound)


def _only_count(params: Mapping[str, Tensor], /) -> State:
    return {"step": {"count": torch.zeros((), dtype=torch.int64)}}


def _counted(state: State) -> State:
    return {"step": {"count": state["step"]["count"] + 1}}
