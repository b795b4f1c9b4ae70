"""Large models: the results of blocks are folded into one by a fixed tree, so a worker answers once and not per block.

The tree is a function of the blocks alone. A worker folds whatever whole subtree it is given, and the engine folds what
the workers answer, so the bits are the same for any number of workers, while the models that travel are one a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedmomentum.clients.block import Arrays, BlockResult, BlockTask
from fedmomentum.protocol import NUM_EXAMPLES

LARGE = 32 << 20
"""Bytes of a model from which blocks are folded: below, sending a few more is cheaper than fewer, larger tasks."""
LEAVES = 8
"""Blocks that a round of a large model is cut into."""

_CHUNK = 1 << 16

T = TypeVar("T")


@dataclass(frozen=True)
class Bundle:
    """A subtree: tasks at its leaves, a power of two of them, None where there is none."""

    leaves: tuple[BlockTask | None, ...]
    uniform: bool = False

    @property
    def clients(self) -> tuple[int, ...]:
        """The clients of all tasks."""
        return tuple(client for task in self.leaves if task is not None for client in task.clients)


def bundles(tasks: Sequence[BlockTask], workers: int) -> list[Bundle]:
    """Cut the tree over the tasks of a round into at least as many subtrees as there are workers, if it has as many.

    Tasks come with the most work first; they are paired as in a tournament, the strongest with the weakest, so that all
    subtrees of one size get about the same work.
    """
    if not tasks:
        return []
    order = [0]
    while len(order) < len(tasks):
        order = [i for first in order for i in (first, 2 * len(order) - 1 - first)]
    leaves = [tasks[i] if i < len(tasks) else None for i in order]
    parts = 1
    while parts < workers and parts < len(leaves):
        parts *= 2
    size = len(leaves) // parts
    uniform = bool(tasks) and tasks[0].uniform
    return [Bundle(tuple(leaves[i * size : (i + 1) * size]), uniform) for i in range(parts)]


def fold(
    leaves: Sequence[T], result: Callable[[T], BlockResult | None], *, uniform: bool = False
) -> BlockResult | None:
    """Fold the results at the leaves, each of which is asked for when it is needed; None where nobody has one."""
    if len(leaves) == 1:
        return result(leaves[0])
    half = len(leaves) // 2
    left, right = (fold(part, result, uniform=uniform) for part in (leaves[:half], leaves[half:]))
    return joined(left, right, uniform=uniform) if left is not None and right is not None else left or right


def joined(a: BlockResult, b: BlockResult, *, uniform: bool) -> BlockResult:
    """Give the result of two blocks: ``(w_a a + w_b b) / (w_a + w_b)`` in float64, rounded to the dtypes of the model.

    Weights are examples, or clients where they are to count alike (``uniform``). The memory of ``a`` is used again
    where it may be written to.
    """
    if a.mean is None or b.mean is None:
        mean = a.mean or b.mean
    else:
        w_a, w_b = (len(r.members["client"]) if uniform else sum(r.members[NUM_EXAMPLES]) for r in (a, b))
        share = w_a / (w_a + w_b)
        mean = {name: {n: _mean(x, b.mean[name][n], share) for n, x in tree.items()} for name, tree in a.mean.items()}
    return replace(
        a,
        members={name: [*a.members.get(name, []), *b.members.get(name, [])] for name in {**a.members, **b.members}},
        mean=mean,
        failures=(*a.failures, *b.failures),
        memory=a.memory | b.memory,
        seconds=a.seconds + b.seconds,
        spans=(*a.spans, *b.spans),
    )


def _mean(a: NDArray[np.generic], b: NDArray[np.generic], share: float) -> NDArray[np.generic]:
    own = a.flags.writeable and a.flags.c_contiguous
    out = a if own else np.empty(a.shape, a.dtype)
    flat_a, flat_b, flat = np.ascontiguousarray(a).reshape(-1), np.ascontiguousarray(b).reshape(-1), out.reshape(-1)
    for begin in range(0, flat.size, _CHUNK):
        part = slice(begin, begin + _CHUNK)
        value = share * flat_a[part].astype(np.float64) + (1.0 - share) * flat_b[part].astype(np.float64)
        flat[part] = value if a.dtype.kind == "f" else np.rint(value)
    return out


def model_bytes(arrays: Arrays) -> int:
    """Give the bytes of a model."""
    return sum(x.nbytes for x in arrays.values())


def block_size(cohort: int) -> int:
    """Give the clients a block for a large model: a function of the cohort alone."""
    return max(1, -(-cohort // LEAVES))
