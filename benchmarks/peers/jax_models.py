"""The three models of workload W in plain JAX: parameters as a list of pairs, and their cross entropy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = {
    "lin": [(784, 10)],
    "mlp": [(784, 200), (200, 10)],
    "cnn": [(3, 3, 1, 32), (3, 3, 32, 64), (1600, 128), (128, 10)],
}


def initial(model: str) -> list:
    """Give the weights and biases of a model."""
    rng = np.random.default_rng(0)
    return [
        (jnp.asarray(rng.standard_normal(s, dtype=np.float32) / np.sqrt(np.prod(s[:-1]))), jnp.zeros(s[-1]))
        for s in SHAPES[model]
    ]


def loss(model: str, params: list, x: jax.Array, y: jax.Array) -> jax.Array:
    """Give the mean cross entropy of images ``[B, 28, 28, 1]``."""
    layers = list(params)
    if model == "cnn":
        for w, b in layers[:2]:
            x = jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")) + b
            x = jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        layers = layers[2:]
    x = x.reshape(len(x), -1)
    for w, b in layers[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = layers[-1]
    return -jnp.take_along_axis(jax.nn.log_softmax(x @ w + b), y[:, None], 1).mean()
