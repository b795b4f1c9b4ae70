"""Data sets, partitions of them over clients, and the federated view that workers hold.

>>> dataset = load("digits")
>>> split = partition("dirichlet", labels=dataset.y, clients=20, alpha=0.3, seed=1)
>>> data = FederatedData.build(dataset, split, validation=0.1)
>>> x, y = data.train_arrays(7)
"""

from __future__ import annotations

from fedmomentum.data.adapter import from_flwr_datasets
from fedmomentum.data.client_order import arrange
from fedmomentum.data.dataset import Dataset
from fedmomentum.data.federated import FederatedData
from fedmomentum.data.load import DATASETS, load
from fedmomentum.data.partition import Partition
from fedmomentum.data.partitioners import PARTITIONERS, partition
from fedmomentum.data.shift import FeatureShift
from fedmomentum.data.summary import PartitionSummary, summarise

__all__ = [
    "DATASETS",
    "PARTITIONERS",
    "Dataset",
    "FeatureShift",
    "FederatedData",
    "Partition",
    "PartitionSummary",
    "arrange",
    "from_flwr_datasets",
    "load",
    "partition",
    "summarise",
]
