"""How uneven a partition is, in numbers: sizes, class counts, distance from iid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedmomentum.data.partition import IntArray, Partition
from fedmomentum.errors import UserError

_CLIENTS_AT_A_TIME = 1 << 14
"""Clients looked at together: what is needed on the way stays small beside the counts of a million clients."""


@dataclass(frozen=True, eq=False)
class PartitionSummary:
    """What ``summarise`` found.

    Args:
        counts: ``[C, classes]`` int32, examples of each class that each client holds.
        total_variation: mean over clients of ``0.5 sum_k |q_ck - p_k|``, p the distribution of all that is dealt out;
            0 for iid, towards 1 where clients have nothing in common.
        effective_classes: ``[C]``, ``exp(entropy of q_c)``; 1 for a client with one class, NaN for an empty one.
    """

    counts: IntArray
    total_variation: float
    effective_classes: np.ndarray[tuple[int], np.dtype[np.float64]]

    @property
    def sizes(self) -> IntArray:
        """Examples of every client, ``[C]``."""
        return np.asarray(self.counts.sum(axis=1))

    def as_dict(self) -> dict[str, float]:
        """Give the summary as plain numbers, for provenance and tables."""
        sizes, classes = self.sizes, self.effective_classes
        return {
            "clients": len(sizes),
            "examples": int(sizes.sum()),
            "empty_clients": int((sizes == 0).sum()),
            "size_min": int(sizes.min()),
            "size_median": float(np.median(sizes)),
            "size_max": int(sizes.max()),
            "classes": self.counts.shape[1],
            "total_variation": self.total_variation,
            "effective_classes_mean": float(classes[sizes > 0].mean()),
        }

    def __str__(self) -> str:
        """Give two lines for a person."""
        facts = self.as_dict()
        empty = f", {facts['empty_clients']:,} of them empty" if facts["empty_clients"] else ""
        return (
            f"{facts['examples']:,} examples over {facts['clients']:,} clients{empty}: "
            f"sizes {facts['size_min']:,} to {facts['size_max']:,}, median {facts['size_median']:,g}\n"
            f"distance from iid (total variation) {facts['total_variation']:.3f}; a client has in effect "
            f"{facts['effective_classes_mean']:.2f} of {facts['classes']} classes"
        )


def summarise(labels: ArrayLike, partition: Partition, classes: int) -> PartitionSummary:
    """Count the classes of every client and measure how far the clients are from iid.

        TV_c = 0.5 sum_k |q_ck - p_k|,   effective classes of c = exp(-sum_k q_ck log q_ck)

    Means are over clients that hold something, each with the same weight.

    Args:
        labels: ``[N]`` in 0 .. classes - 1, or ``[N, T]``: then each token counts.
        partition: of those N examples.
        classes: how many.

    Raises:
        UserError: a label is out of range, or every client is empty.
    """
    y, order, offsets = np.asarray(labels), partition.order, partition.offsets
    if len(order) == 0 or y[:1].size == 0:
        raise UserError("the partition deals out no examples; there is nothing to summarise")
    counts = np.zeros((len(partition), classes), np.int32)
    for first in range(0, len(partition), _CLIENTS_AT_A_TIME):
        last = min(first + _CLIENTS_AT_A_TIME, len(partition))
        held = y[order[offsets[first] : offsets[last]]].astype(np.int64, copy=False)
        if held.size and (held.min() < 0 or held.max() >= classes):
            raise UserError(f"labels from {held.min()} to {held.max()} do not lie in 0 .. {classes - 1}")
        owners = np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1])).reshape(-1, *[1] * (y.ndim - 1))
        flat = np.bincount((owners * classes + held).reshape(-1), minlength=(last - first) * classes)
        counts[first:last] = flat.reshape(-1, classes)
    p = counts.sum(axis=0) / counts.sum()
    distance, effective = np.zeros(len(partition)), np.full(len(partition), np.nan)
    for first in range(0, len(partition), _CLIENTS_AT_A_TIME):
        part = slice(first, first + _CLIENTS_AT_A_TIME)
        held = counts[part].sum(axis=1)
        q = counts[part] / np.maximum(held, 1)[:, None]
        distance[part] = 0.5 * np.abs(q - p).sum(axis=1)
        entropy = -(q * np.log(np.where(q > 0, q, 1.0))).sum(axis=1)
        effective[part] = np.where(held > 0, np.exp(entropy), np.nan)
    return PartitionSummary(counts, float(distance[~np.isnan(effective)].mean()), effective)
