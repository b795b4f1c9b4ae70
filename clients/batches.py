"""Which examples a client sees in which step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum.clients.spec import ClientSpec
from fedmomentum.streams import Streams


def plan(
    spec: ClientSpec,
    examples: int,
    *,
    round: int,
    client: int,
    effort: float = 1.0,
    streams: Streams | None = None,
) -> NDArray[np.int64]:
    """Give the batches of one client and round as positions in its data, ``[steps, batch]``, -1 where a batch is short.

    Every epoch is a fresh permutation cut into batches; the last batch of an epoch may be short. The plan depends on
    the seed, the round and the client alone. ``effort`` keeps that fraction of the steps, at least one. ``streams``,
    those of the seed and the name ``batches``, save making one.
    """
    batch = min(spec.batch_size or examples, examples)
    per_epoch = -(-examples // batch)
    steps = spec.steps_for(examples)
    epochs = -(-steps // per_epoch)
    rng = (streams or Streams(spec.seed, "batches")).at(round=round, client=client)
    if epochs == 1 and per_epoch * batch == examples:
        table = rng.permutation(examples)
    else:
        table = np.full((epochs, per_epoch * batch), -1, dtype=np.int64)
        for epoch in range(epochs):
            table[epoch, :examples] = rng.permutation(examples)
    kept = steps if effort >= 1.0 else max(1, int(steps * effort))
    return table.reshape(epochs * per_epoch, batch)[:kept]


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
    def side_by_side(cls, plans: Sequence[NDArray[np.int64]], counts: Sequence[int], like: Tensor) -> StackedPlan:
        """Stack plans of positions in each client's own examples, where all of these lie client by client."""
        table, starts = pad(plans), np.cumsum([0, *counts[:-1]])
        real = table >= 0
        rows = np.maximum(table, 0) + starts[:, None]
        kind = like.dtype if like.is_floating_point() else torch.float32
        weights = torch.from_numpy(real).to(like.device, kind)
        return cls(torch.from_numpy(rows).to(like.device), weights, np.array([len(plan) for plan in plans]))

    def active(self, step: int) -> int:
        """Give how many clients take part in a step: the first ones."""
        return int((self.steps > step).sum())


def pad(rows: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Give ``[steps, K, batch]`` with -1 wherever a client has no example."""
    if all(r.shape == rows[0].shape for r in rows):
        return np.stack(rows, 1)
    shape = (max(len(r) for r in rows), len(rows), max(r.shape[1] for r in rows))
    table = np.full(shape, -1, dtype=np.int64)
    for k, r in enumerate(rows):
        table[: r.shape[0], k, : r.shape[1]] = r
    return table
