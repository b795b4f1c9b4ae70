"""Partitioners of flwr-datasets (an extra) as partitions of ours."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from fedmomentum.data.dataset import Dataset
from fedmomentum.data.partition import IntArray, Partition, index_type, offsets_of
from fedmomentum.errors import UserError

INDEX = "fedmomentum-index"
"""Column that numbers the examples on their way through a foreign partitioner."""


class ForeignPartitioner(Protocol):
    """What is used of a flwr-datasets partitioner."""

    @property
    def dataset(self) -> Any:
        """Hold the Hugging Face data set that is split."""

    @dataset.setter
    def dataset(self, value: Any) -> None: ...

    @property
    def num_partitions(self) -> int:
        """Give the number of clients."""

    def load_partition(self, partition_id: int) -> Any:
        """Give the rows of one client."""


def from_flwr_datasets(
    partitioner: ForeignPartitioner, dataset: Dataset | Any, *, columns: Mapping[str, ArrayLike] | None = None
) -> Partition:
    """Let a flwr-datasets partitioner split a data set, and give its choice as a ``Partition``.

    The partitioner sees a table with the columns ``label`` and, where the data set has natural clients, ``group``: name
    one of them in its ``partition_by``. No image is copied.

    Example:
        >>> from_flwr_datasets(NaturalIdPartitioner(partition_by="group"), load("synthetic", ...))

    Args:
        partitioner: fresh, that is, without a data set of its own.
        dataset: one of ours, or a Hugging Face ``datasets.Dataset`` whose rows are our examples in our order.
        columns: further columns ``[N]`` that it shall see.

    Raises:
        UserError: the `datasets` library is absent, the partitioner refuses the table, or what it gives back is not a
            partition (an example twice); the message names the partitioner.
    """
    here = type(partitioner).__name__
    if isinstance(dataset, Dataset):
        own = {"label": dataset.y} if dataset.y.ndim == 1 else {}
        table = _table(
            len(dataset.x), own | ({} if dataset.groups is None else {"group": dataset.groups}) | dict(columns or {})
        )
    else:
        table = dataset.add_column(INDEX, np.arange(len(dataset)))
        for name, values in (columns or {}).items():
            table = table.add_column(name, np.asarray(values))
    try:
        partitioner.dataset = table
        parts = [
            np.asarray(partitioner.load_partition(client)[INDEX], np.int64)
            for client in range(partitioner.num_partitions)
        ]
    except Exception as error:  # a foreign library: whatever it raises is about what it was given
        raise UserError(
            f"{here} cannot split {len(table)} rows with the columns {', '.join(table.column_names)}: {error}"
        ) from error
    if not parts:
        raise UserError(f"{here} made no partitions; one a client is needed")
    order: IntArray = np.concatenate(parts).astype(index_type(len(table)))
    repeated = np.flatnonzero(np.bincount(order, minlength=1) > 1)
    if len(repeated):
        raise UserError(f"{here} gave example {repeated[0]} to more than one place; each example can have one client")
    return Partition(order, offsets_of(np.array([len(part) for part in parts])))


def _table(size: int, columns: Mapping[str, ArrayLike]) -> Any:
    try:
        library = importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(
            "partitioners of flwr-datasets need its package: pip install 'fedmomentum[flwr-datasets]'"
        ) from error
    return library.Dataset.from_dict({INDEX: np.arange(size)} | {name: np.asarray(v) for name, v in columns.items()})
