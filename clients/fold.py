"""Large models: the results of blocks are folded into one by a fixed tree, so a worker answers once and not per block.

The tree is a function of the blocks alone. A worker folds whatever whole subtree it is given, and the engine folds what
the workers answer, so the bits are the same for any number of workers, while the models that travel are one a worker.
What is folded are sums of differences from the model that was sent, in its own dtypes: they are added in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedmomentum.clients.block import Arrays, BlockResult, BlockTask
from fedmomentum.clients.shelf import Shelf, rest
from fedmomentum.protocol import ARRAYS, NUM_EXAMPLES
from fedmomentum.protocol import LARGE as LARGE

LEAVES = 8
"""Blocks that a round of a large model is cut into."""

_CHUNK = 1 << 16

T = TypeVar("T")


@dataclass(frozen=True)
class Bundle:
    """A subtree: tasks at its leaves, a power of two of them, None where there is none."""

    leaves: tuple[BlockTask | None, ...]

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
    return [Bundle(tuple(leaves[i * size : (i + 1) * size])) for i in range(parts)]


def fold(
    leaves: Sequence[T], result: Callable[[T], BlockResult | None], shelf: Shelf | None = None
) -> BlockResult | None:
    """Fold the results at the leaves, each of which is asked for when it is needed; None where nobody has one.

    With a shelf no more than one result's sums are in memory: the others wait there.
    """
    if len(leaves) == 1:
        return result(leaves[0])
    half = len(leaves) // 2
    left = fold(leaves[:half], result, shelf)
    if left is not None and shelf is not None and left.sums:
        left = replace(left, sums=shelf.put(left.sums))
    right = fold(leaves[half:], result, shelf)
    return joined(left, right, shelf) if left is not None and right is not None else right if left is None else left


def joined(a: BlockResult, b: BlockResult, shelf: Shelf | None = None) -> BlockResult:
    """Give the result of two blocks; their sums are added in place where one of them may be written to."""
    sums = a.sums or b.sums
    if a.sums and b.sums and shelf is not None:
        sums = shelf.join(a.sums, onto=b.sums)
    elif a.sums and b.sums:
        sums = {record: {n: _sum(x, b.sums[record][n]) for n, x in tree.items()} for record, tree in a.sums.items()}
    return replace(
        a,
        members={name: [*a.members.get(name, []), *b.members.get(name, [])] for name in {**a.members, **b.members}},
        sums=sums,
        failures=(*a.failures, *b.failures),
        memory=a.memory | b.memory,
        seconds=a.seconds + b.seconds,
        spans=(*a.spans, *b.spans),
    )


def outcome(results: Sequence[BlockResult | None]) -> BlockResult | None:
    """Fold all but the sums of what workers answered."""
    return fold(results, lambda result: None if result is None else replace(result, sums=None))


def means(
    results: Sequence[BlockResult | None], sent: Mapping[str, Arrays], *, uniform: bool
) -> Iterator[tuple[str, str, NDArray[np.generic]]]:
    """Fold the sums of what workers answered and give the weighted means, one tensor at a time: record, name, mean.

    ``x + sum / W`` of models and ``sum / W`` of other records, in float64, rounded to the dtype of the record that was
    sent, or else that of the sum. Each sum is let go as its mean comes.

    Args:
        results: of the subtrees of a round, in order; their sums are used up.
        sent: the records that were sent, the model ``x`` among them.
        uniform: weigh clients alike, not by their examples.
    """
    good = [result for result in results if result is not None and result.sums]
    weight = sum(float(len(r.members["client"]) if uniform else sum(r.members[NUM_EXAMPLES])) for r in good)
    for record in list(good[0].sums or ()) if good else ():
        origin = sent.get(record, {})
        for name in list((good[0].sums or {})[record]):
            parts = [r.sums[record].pop(name) if r is not None and r.sums else None for r in results]
            total = _folded(parts)
            assert total is not None
            like, start = origin.get(name, total), origin.get(name) if record == ARRAYS else None
            del parts
            mean = _mean(total, weight, start, like.dtype)
            del total
            rest()
            yield record, name, mean


def model_bytes(arrays: Arrays) -> int:
    """Give the bytes of a model."""
    return sum(x.nbytes for x in arrays.values())


def block_size(cohort: int) -> int:
    """Give the clients a block for a large model: a function of the cohort alone."""
    return max(1, -(-cohort // LEAVES))


def _folded(parts: Sequence[NDArray[np.generic] | None]) -> NDArray[np.generic] | None:
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    left, right = _folded(parts[:half]), _folded(parts[half:])
    return _sum(left, right) if left is not None and right is not None else right if left is None else left


def _sum(a: NDArray[np.generic], b: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.asarray(np.add(a, b, out=a if a.flags.writeable else None))


def _mean(
    total: NDArray[np.generic], weight: float, origin: NDArray[np.generic] | None, dtype: np.dtype[np.generic]
) -> NDArray[np.generic]:
    out = np.empty(total.shape, dtype)
    flat, sums = out.reshape(-1), np.ascontiguousarray(total).reshape(-1)
    start = None if origin is None else np.ascontiguousarray(origin).reshape(-1)
    for begin in range(0, flat.size, _CHUNK):
        part = slice(begin, begin + _CHUNK)
        value = sums[part].astype(np.float64) / weight
        if start is not None:
            value += start[part]
        flat[part] = value if out.dtype.kind == "f" else np.rint(value)
    return out
