"""What a person writes by hand in JAX: one jitted function a round, ``vmap`` over clients, ``scan`` over steps."""

from __future__ import annotations

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.data import BATCH, CLIENTS, EXAMPLES, LR, MOMENTUM, client_data
from benchmarks.peers.jax_models import initial, loss


def main(model: str, rounds: int) -> list[float]:
    """Run rounds; give the time at the end of each."""
    parts = [client_data(c) for c in range(CLIENTS)]
    x = jnp.asarray(np.stack([p[0] for p in parts])).transpose(0, 1, 3, 4, 2)
    y = jnp.asarray(np.stack([p[1] for p in parts]))

    def client(params, x, y, rows):
        def step(carry, chosen):
            params, velocity = carry
            grads = jax.grad(lambda p: loss(model, p, x[chosen], y[chosen]))(params)
            velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, grads)
            return (jax.tree.map(lambda p, v: p - LR * v, params, velocity), velocity), None

        return jax.lax.scan(step, (params, jax.tree.map(jnp.zeros_like, params)), rows)[0][0]

    @jax.jit
    def one_round(params, rows):
        return jax.tree.map(lambda p: p.mean(0), jax.vmap(client, (None, 0, 0, 0))(params, x, y, rows))

    params, ends = initial(model), []
    for server_round in range(rounds):
        rng = np.random.default_rng(server_round)
        rows = np.stack([rng.permutation(EXAMPLES).reshape(-1, BATCH) for _ in range(CLIENTS)])
        params = jax.block_until_ready(one_round(params, rows))
        ends.append(time.time())
    return ends


if __name__ == "__main__":
    print("\n" + json.dumps({"ends": main(sys.argv[1], int(sys.argv[2]))}), flush=True)
