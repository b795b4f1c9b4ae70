"""The test of the global model on the central test set: the same in any process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fedmomentum.clients.block import Arrays
from fedmomentum.clients.collect import to_records
from fedmomentum.clients.evaluate import evaluate
from fedmomentum.clients.network import Network
from fedmomentum.clients.norm import recalibrate
from fedmomentum.data import FederatedData
from fedmomentum.protocol import ARRAYS
from fedmomentum.streams import stream


@dataclass(frozen=True)
class CentralTask:
    """Test a model.

    Args:
        round: whose model it is.
        seed: of the examples that batch norm is measured on.
        batch_size: test examples at a time.
        recalibrate: training examples on which batch-norm statistics are measured before; 0 for none.
    """

    round: int
    seed: int = 0
    batch_size: int = 512
    recalibrate: int = 0


def test_centrally(
    task: CentralTask, records: Mapping[str, Arrays], network: Network, data: FederatedData
) -> dict[str, float]:
    """Give loss and accuracy of a model on the central test set; the network holds the model afterwards."""
    device = next((x.device for x in network.tree().values()), torch.device("cpu"))
    network.load(to_records({ARRAYS: records[ARRAYS]}, str(device))[ARRAYS])
    if task.recalibrate:
        order, size = data.partition.order, min(task.recalibrate, len(data.partition.order))
        chosen = stream(task.seed, "recalibrate", round=task.round).choice(order, size, replace=False)
        named = chosen if data.origin is None else data.origin[chosen]
        sample = torch.from_numpy(data.x[chosen[np.argsort(named)]]).to(device)
        recalibrate(network, sample, batch_size=task.batch_size)
    x, y = (torch.from_numpy(np.asarray(part)).to(device) for part in (data.test_x, data.test_y))
    return evaluate(network, x, y, batch_size=task.batch_size)
