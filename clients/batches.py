"""Which examples a client sees in which step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedmomentum.clients.spec import ClientSpec
from fedmomentum.streams import stream


def plan(spec: ClientSpec, examples: int, *, round: int, client: int, effort: float = 1.0) -> NDArray[np.int64]:
    """Give the batches of one client and round as positions in its data, ``[steps, batch]``, -1 where a batch is short.

    Every epoch is a fresh permutation cut into batches; the last batch of an epoch may be short. The plan depends on
    the seed, the round and the client alone. ``effort`` keeps that fraction of the steps, at least one.
    """
    batch = min(spec.batch_size or examples, examples)
    per_epoch = -(-examples // batch)
    steps = spec.steps_for(examples)
    epochs = -(-steps // per_epoch)
    rng = stream(spec.seed, "batches", round=round, client=client)
    table = np.full((epochs, per_epoch * batch), -1, dtype=np.int64)
    for epoch in range(epochs):
        table[epoch, :examples] = rng.permutation(examples)
    kept = steps if effort >= 1.0 else max(1, int(steps * effort))
    return table.reshape(epochs * per_epoch, batch)[:kept]
