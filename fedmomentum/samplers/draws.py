"""Running a kernel: steps, thinning, burn-in, and picking up where a run stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedmomentum.samplers.kernel import Kernel
from fedmomentum.streams import key
from fedmomentum.trees import State, Tree

BLOCK = 64
"""Transitions that a kernel with a ``scan`` makes at once, if they have no more than"""
NUMBERS = 1 << 18
"""numbers, over all chains."""


@dataclass(frozen=True)
class Draws:
    """Samples with what is needed to go on.

    Args:
        samples: ``[S, C, *shape]`` a tensor: S draws of C chains.
        info: what the kernel reported with each kept draw, ``[S, C]`` a field.
        state: of the kernel after the last step.
        step: how many transitions were made since the start.
        seed: of the run's streams.
    """

    samples: Tree
    info: dict[str, Tensor]
    state: State
    step: int
    seed: int

    def state_dict(self) -> dict[str, Any]:
        """Give what ``run(..., resume=...)`` needs, without the samples."""
        return {"state": self.state, "step": self.step, "seed": self.seed}


def run(
    kernel: Kernel,
    position: Tree | None,
    steps: int,
    *,
    seed: int = 0,
    thin: int = 1,
    burn_in: int = 0,
    keep: Callable[[int], bool] | None = None,
    resume: Mapping[str, Any] | None = None,
) -> Draws:
    """Make ``steps`` transitions and keep the draws ``burn_in + thin``, ``burn_in + 2 thin``, ...

    Step t has a key of its own, ``streams.key(seed, "sampler", step=t)``, and steps are counted from the very
    start, so ``run(n + m)`` equals ``run(n)`` followed by ``run(m, resume=...)``.

    Args:
        kernel: which sampler.
        position: starting points ``[C, *shape]``; None when resuming.
        steps: transitions to make now.
        seed: of the streams; a resumed run keeps its own.
        thin: keep one draw in so many.
        burn_in: transitions since the start of which no draw is kept.
        keep: says of step t (from 0) whether its draw may be kept, such as ``Cyclical.keeps``.
        resume: the ``state_dict()`` of the draws before.

    Raises:
        ValueError: both or neither of ``position`` and ``resume``, or a number out of its range.
    """
    if (position is None) == (resume is None):
        raise ValueError("give either a position to start from or a run to resume")
    if steps < 1 or thin < 1 or burn_in < 0:
        raise ValueError(f"need steps >= 1, thin >= 1, burn_in >= 0, not {steps}, {thin}, {burn_in}")
    if resume is not None:
        state, done, seed = resume["state"], int(resume["step"]), int(resume["seed"])
    else:
        assert position is not None
        state, done = kernel.init(position), 0
    end = done + steps
    block = block_of(sum(x.numel() for x in state["position"].values())) if kernel.scan else 1
    kept: list[Tree] = []
    reports: list[Any] = []
    for first in range(done, end, block):
        times = range(first, min(first + block, end))
        keys = [key(seed, "sampler", step=t) for t in times]
        if kernel.scan is None:
            state, info = kernel.step(keys[0], state)
            samples = {name: x.unsqueeze(0) for name, x in state["position"].items()}
            infos = type(info)(*(x.unsqueeze(0) for x in info))
        else:
            state, samples, infos = kernel.scan(keys, state)
        wanted = [
            t - first for t in times if t >= burn_in and (t + 1 - burn_in) % thin == 0 and (keep is None or keep(t))
        ]
        if wanted:
            kept.append({name: x if len(wanted) == len(x) else x[wanted] for name, x in samples.items()})
            reports.append(type(infos)(*(x if len(wanted) == len(x) else x[wanted] for x in infos)))
    if kept:
        samples = {name: torch.cat([tree[name] for tree in kept]) for name in kept[0]}
    else:
        samples = {name: x.new_empty((0, *x.shape)) for name, x in state["position"].items()}
    fields = reports[0]._fields if reports else ()
    info = {name: torch.cat([getattr(r, name) for r in reports]) for name in fields}
    return Draws(samples, info, state, end, seed)


def block_of(size: int) -> int:
    """Give how many transitions of ``size`` numbers are made at once: a matter of memory and speed, not of bits."""
    return max(1, min(BLOCK, NUMBERS // max(size, 1)))
