"""pfl-research's simulated backend in two processes, which ``python -m torch.distributed.run`` starts."""

from __future__ import annotations

import functools
import json
import os
import sys
import time

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel

from benchmarks.data import BATCH, CLIENTS, LR, MOMENTUM, client_data
from benchmarks.workload import network


class Model(torch.nn.Module):
    """A network with the loss that pfl-research asks for."""

    def __init__(self, model: str) -> None:
        """Build it."""
        super().__init__()
        self.network = network(model)

    def loss(self, x: torch.Tensor, y: torch.Tensor, eval: bool = False) -> torch.Tensor:
        """Give the mean cross entropy."""
        return torch.nn.functional.cross_entropy(self.network(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor, eval: bool = True) -> dict:
        """Give none."""
        return {}


class Ends(TrainingProcessCallback):
    """Notes the time at the end of each round."""

    def __init__(self) -> None:
        """Begin."""
        self.times: list[float] = []

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """Note it."""
        self.times.append(time.time())
        return False, Metrics()


def main(model: str, rounds: int) -> list[float]:
    """Run rounds; give the time at the end of each."""
    torch.set_num_threads(1)
    users = list(range(CLIENTS))
    cache = {c: Dataset([torch.from_numpy(a) for a in client_data(c)]) for c in users}
    np.random.seed(0)
    data = FederatedDataset(cache.__getitem__, get_user_sampler("minimize_reuse", users))
    module = Model(model)
    sgd = functools.partial(torch.optim.SGD, momentum=MOMENTUM)
    ends = Ends()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds, evaluation_frequency=10**6, train_cohort_size=CLIENTS, val_cohort_size=None
        ),
        SimulatedBackend(data, data),
        PyTorchModel(module, sgd, torch.optim.SGD(module.parameters(), 1.0)),
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=LR, local_batch_size=BATCH),
        None,
        [ends],
        send_metrics_to_platform=False,
    )
    return ends.times


if __name__ == "__main__":
    found = main(sys.argv[1], int(sys.argv[2]))
    if os.environ.get("RANK", "0") == "0":
        print("\n" + json.dumps({"ends": found}), flush=True)
    sys.stdout.flush()
    os._exit(0)  # its queues would keep the process
