"""Batch norm in a federation: what is averaged, what stays with a client, what stands still, what is measured anew."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedmomentum.clients.network import Network

Policy: TypeAlias = Literal["average", "local", "freeze"]
"""``average``: weights and statistics are averaged like everything else. ``local``: each client goes on with its own;
what the server averages is for its tests and for clients that come for the first time (FedBN, arXiv:2102.07623).
``freeze``: clients normalise by the global statistics and do not move them; weights train on."""


def batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """Give the batch-norm layers of a model by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)}


def norm_tensors(module: nn.Module) -> frozenset[str]:
    """Give the names of all weights and statistics of batch-norm layers."""
    return frozenset(f"{layer}.{name}" for layer, norm in batch_norms(module).items() for name in norm.state_dict())


def recalibrate(network: Network, x: Tensor, *, batch_size: int = 512) -> None:
    """Measure the statistics of batch norm anew: the mean over batches of their means and (unbiased) variances.

    Args:
        network: its weights stay, and so do its layers' own momenta.
        x: examples that the server has, ``[n, *shape]``; a last batch that is short counts less.
        batch_size: examples at a time.

    Raises:
        ValueError: there are fewer than two examples.

    Reference: arXiv:1803.05407, section 3.1, for a network whose weights were averaged.
    """
    if len(x) < 2:
        raise ValueError("statistics take at least two examples")
    layers = list(batch_norms(network.module).values())
    if not layers:
        return
    before = [(layer.momentum, layer.training) for layer in layers]
    modes = network.module.training
    network.module.eval()  # dropout is no part of it
    seen = 0
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.train()
        with torch.no_grad():
            for begin in range(0, len(x), batch_size):
                batch = x[begin : begin + batch_size]
                if len(batch) < 2:
                    continue
                seen += len(batch)
                for layer in layers:
                    layer.momentum = len(batch) / seen
                network.module(network.inputs(batch))
    finally:
        network.module.train(modes)
        for layer, (momentum, training) in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.train(training)
