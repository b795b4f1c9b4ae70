"""An exchange of its own: the server asks clients for the gradient of their whole loss at a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from flwr.app import RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedmomentum.protocol import GRADIENT_QUERY
from fedmomentum.strategies.admission import Expected, admit
from fedmomentum.strategies.aggregation import weighted_mean
from fedmomentum.strategies.broadcast import Broadcast
from fedmomentum.trees import Tree


def mean_gradient(
    grid: Grid,
    content: RecordDict,
    nodes: Sequence[int],
    like: Mapping[str, NDArray[Any]],
    *,
    weighted_by: str,
    uniform: bool,
    timeout: float | None,
) -> Tree | None:
    """Give the mean over clients of the gradients of their losses; None where nobody gave one that counts.

    Args:
        grid: through which they are asked.
        content: the model and the config of the round.
        nodes: who is asked.
        like: names, shapes and dtypes of the gradient.
        weighted_by: metric of a reply that is its weight.
        uniform: count every client alike instead.
        timeout: seconds to wait.
    """
    asked = Broadcast(content, nodes, GRADIENT_QUERY)
    found, _ = admit(grid.send_and_receive(asked, timeout=timeout), Expected(weighted_by, like))
    weights = [float(len(r.clients)) if uniform else r.weight for r in found]
    if sum(weights) <= 0:
        return None
    mean = weighted_mean([reply.arrays for reply in found], weights, like)
    return {name: torch.from_numpy(x) for name, x in mean.items()}
