"""FedJAX's federated averaging with its jit backend."""

from __future__ import annotations

import json
import sys
import time

import fedjax
import jax
import numpy as np

from benchmarks.data import BATCH, CLIENTS, LR, MOMENTUM, client_data
from benchmarks.peers.jax_models import initial, loss


def main(model: str, rounds: int) -> list[float]:
    """Run rounds; give the time at the end of each."""
    fedjax.set_for_each_client_backend("jit")
    parts = [client_data(c) for c in range(CLIENTS)]
    clients = [fedjax.ClientDataset({"x": x.transpose(0, 2, 3, 1), "y": y.astype(np.int32)}) for x, y in parts]
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        jax.grad(lambda params, batch, rng: loss(model, params, batch["x"], batch["y"])),
        fedjax.optimizers.sgd(learning_rate=LR, momentum=MOMENTUM),
        fedjax.optimizers.sgd(learning_rate=1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=BATCH, num_epochs=1),
    )
    state, ends = algorithm.init(initial(model)), []
    for server_round in range(rounds):
        keys = jax.random.split(jax.random.PRNGKey(server_round), CLIENTS)
        state, _ = algorithm.apply(state, [(str(c).encode(), clients[c], keys[c]) for c in range(CLIENTS)])
        jax.block_until_ready(state.params)
        ends.append(time.time())
    return ends


if __name__ == "__main__":
    print("\n" + json.dumps({"ends": main(sys.argv[1], int(sys.argv[2]))}), flush=True)
