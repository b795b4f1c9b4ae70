"""How uneven a partition is, in numbers: sizes, class counts, distance from iid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedmomentum.data.partition import IntArray, Partition
from fedmomentum.errors import UserError


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
    y = np.asarray(labels)[partition.order].astype(np.int64, copy=False)
    if y.size == 0:
        raise UserError("the partition deals out no examples; there is nothing to summarise")
    if y.min() < 0 or y.max() >= classes:
        raise UserError(f"labels from {y.min()} to {y.max()} do not lie in 0 .. {classes - 1}")
    owners = partition.owners().astype(np.int64).reshape(-1, *[1] * (y.ndim - 1))
    flat = np.bincount((owners * classes + y).reshape(-1), minlength=len(partition) * classes)
    counts = flat.reshape(len(partition), classes)
    held = counts.sum(axis=1)
    q = counts / np.maximum(held, 1)[:, None]
    p = counts.sum(axis=0) / held.sum()
    distance = 0.5 * np.abs(q - p).sum(axis=1)
    entropy = -(q * np.log(np.where(q > 0, q, 1.0))).sum(axis=1)
    return PartitionSummary(
        counts.astype(np.int32),
        float(distance[held > 0].mean()),
        np.where(held > 0, np.exp(entropy), np.nan),
    )
