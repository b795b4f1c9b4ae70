"""Which examples a client sees in which step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum.clients.spec import ClientSpec
from fedmomentum.streams import Streams


def plan(spec: ClientSpec, examples: int, *, round: int, client: int, effort: float = 1.0) -> NDArray[np.int64]:
    """Give the batches of one client and round as positions in its data, ``[steps, batch]``, -1 where a batch is short.

    Every epoch is a fresh permutation cut into batches; the last batch of an epoch may be short. The plan depends on
    the seed, the round and the client alone. ``effort`` keeps that fraction of the steps, at least one.
    """
    return plans(spec, {client: examples}, Streams(spec.seed, "batches"), round=round, effort=[effort])[client]


def plans(
    spec: ClientSpec, counts: Mapping[int, int], streams: Streams, *, round: int, effort: Sequence[float] | None = None
) -> dict[int, NDArray[np.int64]]:
    """Give the plans of several clients, by client.

    Args:
        spec: what clients do.
        counts: examples of each client.
        streams: of the seed and the name ``batches``.
        round: of the server.
        effort: of each client; None is all of it for everybody.
    """
    found: dict[int, NDArray[np.int64]] = {}
    shapes = {n: _shape(spec, n) for n in set(counts.values())}
    rngs = streams.along("client", counts, round=round)
    for k, ((client, examples), rng) in enumerate(zip(counts.items(), rngs, strict=True)):
        steps, epochs, batches, batch = shapes[examples]
        if epochs == 1 and batches * batch == examples:
            table = rng.permutation(examples)
        else:
            table = np.full((epochs, batches * batch), -1, dtype=np.int64)
            for epoch in range(epochs):
                table[epoch, :examples] = rng.permutation(examples)
        if effort is not None and effort[k] < 1.0:
            steps = max(1, int(steps * effort[k]))
        found[client] = table.reshape(epochs * batches, batch)[:steps]
    return found


def _shape(spec: ClientSpec, examples: int) -> tuple[int, int, int, int]:
    """Give steps, epochs, batches an epoch, and the size of a batch."""
    batch = min(spec.batch_size or examples, examples)
    batches, steps = -(-examples // batch), spec.steps_for(examples)
    return steps, -(-steps // batches), batches, batch


@dataclass(frozen=True)
class StackedPlan:
    """The batches of K clients side by side, in falling order of their steps: those still at work are the first ones.

    Where a client has no example its own first one stands in with weight 0, so that a number that is not finite
    stays with the client that has it.
    """

    rows_SKB: Tensor
    """Rows of the source of examples, ``[steps, K, batch]``."""
    weights_SKB: Tensor
    """1 for an example, 0 where there is none."""
    steps: NDArray[np.int64]
    """Steps of each client."""

    @classmethod
    def of(cls, rows: Sequence[NDArray[np.int64]], like: Tensor) -> StackedPlan:
        """Stack plans of rows, ``[steps, batch]`` with -1 for no example; weights are of the kind of ``like``."""
        table = pad(rows)
        real = table >= 0
        table = np.where(real, table, table[0, :, :1])
        kind = like.dtype if like.is_floating_point() else torch.float32
        return cls(
            torch.from_numpy(table).to(like.device),
            torch.from_numpy(real).to(like.device, kind),
            np.array([len(r) for r in rows]),
        )

    @classmethod
    def side_by_side(cls, table_SKB: NDArray[np.int64], starts: NDArray[np.int64], like: Tensor) -> StackedPlan:
        """Stack plans of positions in each client's own examples (:func:`pad`), which begin at these rows."""
        real = table_SKB >= 0
        rows = np.maximum(table_SKB, 0) + starts[:, None]
        kind = like.dtype if like.is_floating_point() else torch.float32
        weights = torch.from_numpy(real).to(like.device, kind)
        steps = real[:, :, 0].sum(0)
        return cls(torch.from_numpy(rows).to(like.device), weights, steps)

    @cached_property
    def active(self) -> list[int]:
        """How many clients take part in each step: the first ones."""
        active: list[int] = (self.steps > np.arange(len(self.rows_SKB))[:, None]).sum(1).tolist()
        return active


def pad(rows: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Give ``[steps, K, batch]`` with -1 wherever a client has no example."""
    if all(r.shape == rows[0].shape for r in rows):
        table_KSB = np.concatenate(rows).reshape(len(rows), *rows[0].shape)
        return np.ascontiguousarray(table_KSB.swapaxes(0, 1))
    shape = (max(len(r) for r in rows), len(rows), max(r.shape[1] for r in rows))
    table = np.full(shape, -1, dtype=np.int64)
    for k, r in enumerate(rows):
        table[: r.shape[0], k, : r.shape[1]] = r
    return table
