"""Ways to combine replies that a few bad ones cannot drag along. They need every client's own reply."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedmomentum.strategies.aggregation import Accumulation, weighted_mean
from fedmomentum.strategies.records import Views

Aggregator: TypeAlias = Callable[[Sequence[Views], Sequence[float], Views], Views]
"""``aggregator(replies, weights, like)`` gives one model in the dtypes of ``like``."""


class TooFewError(ValueError):
    """An aggregator needs more replies than the round has; the message says how many."""


def median() -> Aggregator:
    """Give the coordinate-wise median; weights do not count. arXiv:1803.01498."""

    def aggregate(replies: Sequence[Views], weights: Sequence[float], like: Views) -> Views:
        return _by_tensor(lambda x_M: np.median(x_M, axis=0), replies, like)

    return aggregate


def trimmed_mean(*, fraction: float = 0.1) -> Aggregator:
    """Give the coordinate-wise mean without the largest and the smallest values; weights do not count.

    Args:
        fraction: of the replies that is left out at either end, in [0, 0.5); ``floor(fraction M)`` of ``M``.

    Raises:
        ValueError: ``fraction`` is out of range.

    Reference: arXiv:1803.01498.
    """
    if not 0 <= fraction < 0.5:
        raise ValueError(f"fraction must be in [0, 0.5), not {fraction}")

    def aggregate(replies: Sequence[Views], weights: Sequence[float], like: Views) -> Views:
        cut = int(fraction * len(replies) + 1e-9)
        return _by_tensor(lambda x_M: np.sort(x_M, axis=0)[cut : len(replies) - cut].mean(axis=0), replies, like)

    return aggregate


def krum(*, byzantine: int, keep: int = 1) -> Aggregator:
    """Give the reply with the closest neighbours, or the mean of the ``keep`` best ones (Multi-Krum).

    The score of a reply is the sum of its squared distances to the ``M - byzantine - 2`` replies nearest to it, over
    all floating tensors. Weights do not count.

    Args:
        byzantine: bad replies to be safe from, at least 0; it takes ``M >= 2 byzantine + 3`` replies.
        keep: replies that are averaged, at least 1 and at most ``M - byzantine``.

    Raises:
        ValueError: a number is out of range.

    Reference: arXiv:1703.02757.
    """
    if byzantine < 0 or keep < 1:
        raise ValueError(f"byzantine must be at least 0 and keep at least 1, not {byzantine} and {keep}")

    def aggregate(replies: Sequence[Views], weights: Sequence[float], like: Views) -> Views:
        size, needed = len(replies), max(2 * byzantine + 3, byzantine + keep)
        if size < needed:
            raise TooFewError(f"krum with byzantine={byzantine} and keep={keep} needs {needed} replies, not {size}")
        flat_MP = _flat(replies, like)
        squared = np.array([((flat_MP - row) ** 2).sum(axis=1) for row in flat_MP])
        np.fill_diagonal(squared, np.inf)
        scores = np.sort(squared, axis=1)[:, : size - byzantine - 2].sum(axis=1)
        best = np.argsort(scores, kind="stable")[:keep]
        return weighted_mean([replies[i] for i in sorted(best)], [1.0] * keep, like)

    return aggregate


def geometric_median(*, tolerance: float = 1e-6, most_iterations: int = 100, smoothing: float = 1e-6) -> Aggregator:
    """Give the point with the smallest weighted sum of distances ``sum_i w_i |z - x_i|`` over all floating tensors.

    Found by Weiszfeld's iteration, whose distances are held above ``smoothing`` times the first mean one.

    Args:
        tolerance: stop where an iteration moves the point by less than this part of the mean distance.
        most_iterations: at least 1.
        smoothing: above 0.

    Raises:
        ValueError: a number is out of range.

    Reference: arXiv:1912.13445.
    """
    if not (tolerance >= 0 and most_iterations >= 1 and smoothing > 0):
        raise ValueError("tolerance must be at least 0, most_iterations at least 1, smoothing above 0")

    def aggregate(replies: Sequence[Views], weights: Sequence[float], like: Views) -> Views:
        flat_MP, shares = _flat(replies, like), np.asarray(weights, dtype=np.float64)
        point, pull = np.average(flat_MP, axis=0, weights=shares), shares
        unit = float(np.average(np.linalg.norm(flat_MP - point, axis=1), weights=shares))
        for _ in range(most_iterations if unit > 0 else 0):
            pull = shares / np.maximum(np.linalg.norm(flat_MP - point, axis=1), smoothing * unit)
            before, point = point, np.average(flat_MP, axis=0, weights=pull)
            if float(np.linalg.norm(point - before)) <= tolerance * unit:
                break
        return weighted_mean(replies, pull.tolist(), like)

    return aggregate


AGGREGATORS: Mapping[str, Callable[..., Aggregator]] = MappingProxyType(
    {"median": median, "trimmed_mean": trimmed_mean, "krum": krum, "geometric_median": geometric_median}
)
"""Name -> factory."""


def combined(
    models: Sequence[Views],
    weights: Sequence[float],
    sent: Views,
    trained: Collection[str],
    *,
    aggregator: Aggregator | None = None,
    clip_update: float | None = None,
    accumulation: Accumulation = "wide",
) -> Views:
    """Give one model from all that came back: updates clipped, then combined.

    Args:
        models: all tensors of each reply.
        weights: one a reply.
        sent: the model that they started from.
        trained: names of the tensors whose updates are clipped.
        aggregator: None is the weighted mean.
        clip_update: see :func:`clipped`; None does not clip.
        accumulation: of the mean.

    Raises:
        TooFewError: the aggregator needs more replies.
    """
    if clip_update is not None:
        old = {name: sent[name] for name in trained}
        models = [clipped(model, old, clip_update) for model in models]
    if aggregator is not None:
        return aggregator(models, weights, sent)
    return weighted_mean(models, weights, sent, accumulation=accumulation)


def clipped(reply: Views, old: Mapping[str, NDArray[Any]], longest: float) -> Views:
    """Shorten a client's update to a largest length: ``x + (y - x) min(1, longest / |y - x|)``. arXiv:1710.06963.

    Args:
        reply: ``y``, all of its tensors.
        old: ``x``, the tensors that count (no buffers).
        longest: Euclidean length over all of them, above 0.
    """
    moves = {name: reply[name].astype(np.float64) - x for name, x in old.items()}
    length = float(np.sqrt(sum(float((move**2).sum()) for move in moves.values())))
    if length <= longest:
        return reply
    factor = longest / length
    return {**reply, **{name: (old[name] + factor * move).astype(reply[name].dtype) for name, move in moves.items()}}


def _by_tensor(
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]], replies: Sequence[Views], like: Views
) -> Views:
    out: Views = {}
    for name, x in like.items():
        value = np.asarray(combine(np.stack([reply[name] for reply in replies]).astype(np.float64)))
        out[name] = np.asarray(value if x.dtype.kind == "f" else np.rint(value), dtype=x.dtype)
    return out


def _flat(replies: Sequence[Views], like: Views) -> NDArray[np.float64]:
    """Give the floating numbers of every reply in a row, ``[M, P]``."""
    names = [name for name, x in like.items() if x.dtype.kind == "f"]
    return np.stack([np.concatenate([reply[n].astype(np.float64).reshape(-1) for n in names]) for reply in replies])
