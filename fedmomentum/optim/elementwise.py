"""What every rule shares: the walk over a tree, the step size, weight decay and the count of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from fedmomentum.optim.hyper import Hyper, Schedule, checked, checked_rate, fit, rate_at, unknown
from fedmomentum.optim.rule import Rule
from fedmomentum.trees import State, Tree, same_layout

Decay: TypeAlias = Literal["l2", "decoupled"]
"""Where weight decay enters: in the gradient (``l2``), or beside the rule (``decoupled``, arXiv:1711.05101)."""

Kernel: TypeAlias = Callable[..., tuple[Tensor, ...]]
"""``kernel(g, *slots) -> (update, *next slots)`` for one tensor; the update is in memory of its own."""

Begin: TypeAlias = Callable[[Hyper, Tensor], Kernel]
"""``begin(lr, count)`` does once a step what does not depend on the tensor and gives the kernel of that step."""


def elementwise(
    begin: Begin,
    *,
    slots: Mapping[str, float],
    lr: Hyper | Schedule,
    weight_decay: Hyper,
    decay: Decay,
) -> Rule:
    """Make a rule of what it does to one tensor.

    Weight decay ``wd`` is added to the gradient, ``g + wd x`` (``l2``), or to the update, ``u - lr wd x``
    (``decoupled``), both with the parameters as they were before the step.

    Kernels use only operations that IEEE 754 rounds exactly, one by one: no fused multiply-add, whose use depends on
    where in memory an element stands. A stacked copy therefore gets the very bits that it would get alone.

    Args:
        begin: see :data:`Begin`.
        slots: name -> initial value of the tensors that the kernel carries, in the order in which it takes them.
        lr: step size, at least 0: a number, ``[K]``, or a schedule of the step counted from 0.
        weight_decay: at least 0: a number or ``[K]``.
        decay: see :data:`Decay`.

    Raises:
        HyperparameterError: ``lr``, ``weight_decay`` or ``decay`` is not allowed.
    """
    rate = checked_rate(lr)
    shrink = checked("weight_decay", weight_decay, 0.0)
    if decay not in get_args(Decay):
        raise unknown("kind of decay", decay, get_args(Decay))
    has_decay = isinstance(shrink, Tensor) or shrink != 0.0
    l2, decoupled = has_decay and decay == "l2", has_decay and decay == "decoupled"
    initial = dict(slots)

    def init(params: Mapping[str, Tensor], /) -> State:
        state: State = {}
        for slot, start in initial.items():
            state[slot] = {name: torch.full_like(x, start) for name, x in params.items()}
        # On the CPU whatever the parameters' device is: reading it never waits for an accelerator.
        state["step"] = {"count": torch.zeros((), dtype=torch.int64)}
        return state

    def update(grads: Mapping[str, Tensor], state: State, params: Mapping[str, Tensor], /) -> tuple[Tree, State]:
        same_layout(grads, params)
        held = [state[slot] for slot in initial]
        for tree in held:
            same_layout(grads, tree)
        count = state["step"]["count"]
        now = rate_at(rate, count)
        kernel = begin(now, count)
        updates: Tree = {}
        new: State = {slot: {} for slot in initial}
        following = list(new.values())
        for name, g in grads.items():
            x = params[name]
            if l2:
                g = (x * fit(shrink, x)).add_(g)
            step, *kept = kernel(g, *[tree[name] for tree in held])
            if decoupled:
                step.sub_(x * fit(now * shrink, x))
            updates[name] = step
            for tree, tensor in zip(following, kept, strict=True):
                tree[name] = tensor
        new["step"] = {"count": count + 1}
        return updates, new

    return Rule(init, update)
