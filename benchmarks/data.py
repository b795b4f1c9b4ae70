"""Workload W in numbers and numpy, for environments that have no torch."""

from __future__ import annotations

import numpy as np

CLIENTS, EXAMPLES, BATCH, LR, MOMENTUM = 100, 100, 20, 0.01, 0.9
ROUNDS = {"lin": 12, "mlp": 12, "cnn": 5}


def client_data(client: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the examples of one client: noise, and labels that depend on it, so that there is something to learn."""
    rng = np.random.default_rng(client)
    x = rng.standard_normal((EXAMPLES, 1, 28, 28), dtype=np.float32)
    return x, (np.abs(x[:, 0, :5, :2].sum((1, 2))) % 10).astype(np.int64)
