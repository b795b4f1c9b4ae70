"""Loss and accuracy of a network on examples."""

from __future__ import annotations

import torch
from torch import Tensor

from fedmomentum.clients.network import Network
from fedmomentum.models.objective import correct, losses


def evaluate(network: Network, x: Tensor, y: Tensor, *, batch_size: int = 512) -> dict[str, float]:
    """Give the mean cross-entropy ``loss`` and the ``accuracy`` in [0, 1] over all examples, in evaluation mode.

    Raises:
        ValueError: there are no examples.
    """
    if len(y) == 0:
        raise ValueError("there are no examples to evaluate on")
    network.module.eval()
    loss = torch.zeros((), dtype=torch.float64, device=x.device)
    right = torch.zeros((), dtype=torch.float64, device=x.device)
    with torch.no_grad():
        for begin in range(0, len(y), batch_size):
            targets = y[begin : begin + batch_size]
            outputs = network.module(network.inputs(x[begin : begin + batch_size]))
            loss += losses(outputs, targets).double().sum()
            right += correct(outputs, targets).double().sum()
    return {"loss": float(loss) / len(y), "accuracy": float(right) / len(y)}
