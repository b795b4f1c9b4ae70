"""Workload W: 100 clients, all of them in every round, 100 examples of 1x28x28 each, batches of 20, one epoch, SGD with
momentum.

Three models: ``lin`` 784-10, ``mlp`` 784-200-10, ``cnn`` two 3x3 convolutions and two dense layers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from benchmarks.data import BATCH, CLIENTS, EXAMPLES, LR, MOMENTUM, ROUNDS, client_data

__all__ = ["BATCH", "CLIENTS", "EXAMPLES", "LR", "MODELS", "MOMENTUM", "ROUNDS", "client_data", "network", "train"]

MODELS = {"lin": "logistic", "mlp": "mlp", "cnn": "cnn_small"}


def network(model: str) -> nn.Module:
    """Build the model of a column that is not ours, in plain torch."""
    torch.manual_seed(0)
    if model == "lin":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    if model == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10))
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 5 * 5, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def train(module: nn.Module, x: torch.Tensor, y: torch.Tensor, order: np.random.Generator) -> float:
    """Train one client for one epoch as a plain torch loop does; give its mean loss."""
    optimizer = torch.optim.SGD(module.parameters(), lr=LR, momentum=MOMENTUM)
    total = 0.0
    for rows in np.split(order.permutation(len(y)), len(y) // BATCH):
        index = torch.from_numpy(rows)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(x[index]), y[index])
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / (len(y) // BATCH)
