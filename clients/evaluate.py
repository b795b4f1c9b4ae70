"""Loss of a network on examples, and its accuracy where they have classes."""

from __future__ import annotations

import torch
from torch import Tensor

from fedmomentum.clients.network import Network
from fedmomentum.models.objective import correct, losses


def evaluate(network: Network, x: Tensor, y: Tensor, *, batch_size: int = 512) -> dict[str, float]:
    """Give the mean ``loss`` and the ``accuracy`` in [0, 1] over all examples, in evaluation mode.

    Examples whose targets are numbers have a loss alone.

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
            if not y.is_floating_point():
                right += correct(outputs, targets).double().sum()
    found = {"loss": float(loss) / len(y)}
    return found if y.is_floating_point() else found | {"accuracy": float(right) / len(y)}
