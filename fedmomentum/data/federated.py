"""The federated view of a data set, which every worker holds: shared arrays, and index ranges in place of copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedmomentum.data.arguments import real
from fedmomentum.data.dataset import Array, Dataset
from fedmomentum.data.partition import IntArray, Partition, offsets_of
from fedmomentum.data.shift import FeatureShift
from fedmomentum.errors import UserError
from fedmomentum.streams import stream

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class FederatedData:
    """One data set split over C clients; build it with ``FederatedData.build``.

    Plain arrays and small numbers: Ray shares one copy a machine, and the arrays may be read-only. Nothing is computed
    for a client before it is asked for, so a million registered clients cost their offsets and sizes, 8 bytes each.

    Args:
        name: of the data set.
        x: ``[N, *shape]``.
        y: ``[N]`` or ``[N, T]``.
        test_x: the central test set, which no shift touches.
        test_y: its labels.
        classes: how many.
        partition: which examples each client holds.
        validation: part of each client's examples that are held out for its own validation.
        shift: each client's lens; None for none.
        seed: of the stream "validation".
        arranged: whether x and y hold the training examples of one client after another, then the validation examples
            likewise (:func:`fedmomentum.data.client_order.arrange`).
        origin: ``[N]``, the number in the data set of each example, where they were renumbered; else None.
    """

    name: str
    x: Array
    y: Array
    test_x: Array
    test_y: Array
    classes: int
    partition: Partition
    validation: float = 0.0
    shift: FeatureShift | None = None
    seed: int = 0
    arranged: bool = False
    origin: IntArray | None = None

    @classmethod
    def build(
        cls,
        dataset: Dataset,
        partition: Partition,
        *,
        validation: float = 0.0,
        shift: FeatureShift | None = None,
        seed: int = 0,
    ) -> FederatedData:
        """Join a data set and a partition of its training examples.

        Args:
            dataset: whose arrays are shared, not copied.
            partition: its examples must be examples of the data set, each at most once.
            validation: in [0, 1). Of n examples ``round(validation n)`` are held out, but one stays to train on.
            shift: each client's lens.
            seed: decides which examples are held out.

        Raises:
            UserError: a value is out of range, the partition is not one of this data set, or the shift does not suit
                its inputs.
        """
        real("federated data", "validation", validation, least=0, below=1)
        size, order = len(dataset.x), partition.order
        if len(order) and (order.min() < 0 or order.max() >= size):
            raise UserError(
                f"the partition has examples from {order.min()} to {order.max()}; "
                f"data set '{dataset.name}' has 0 .. {size - 1}"
            )
        taken = np.zeros(size, bool)
        taken[order] = True
        if np.count_nonzero(taken) != len(order):
            repeated = int(np.argmax(np.bincount(order)))
            raise UserError(f"the partition gives example {repeated} to more than one place; each can have one client")
        if shift is not None:
            shift.check(dataset.name, dataset.x)
        return cls(
            dataset.name, dataset.x, dataset.y, dataset.test_x, dataset.test_y, dataset.classes, partition,
            float(validation), shift, seed,
        )  # fmt: skip

    @property
    def clients(self) -> int:
        """C, the number of registered clients."""
        return len(self.partition)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, without the leading axis."""
        return self.x.shape[1:]

    @property
    def numbers(self) -> bool:
        """Whether what is to be predicted are numbers, and not classes."""
        return bool(np.issubdtype(self.y.dtype, np.floating))

    @cached_property
    def sizes(self) -> IntArray:
        """Training examples of every client, ``[C]``."""
        held = self.partition.sizes
        return held if self.validation == 0 else held - self._validation_sizes(held)

    @cached_property
    def starts(self) -> IntArray:
        """Where each client's training examples begin, and the last one's end, if data are arranged: ``[C + 1]``."""
        return self.partition.offsets if self.validation == 0 else offsets_of(self.sizes)

    def train_indices(self, client: int) -> IntArray:
        """Give the numbers of a client's training examples.

        Raises:
            IndexError: there is no such client.
        """
        held = self.partition.indices(client)
        if self.validation == 0:
            return held
        return _numbers(self.train_rows([client])) if self.arranged else held[~self.is_validation(client)]

    def validation_indices(self, client: int) -> IntArray:
        """Give the numbers of a client's validation examples; the same at every call.

        Raises:
            IndexError: there is no such client.
        """
        held = self.partition.indices(client)
        if self.validation == 0:
            return held[:0]
        return _numbers(self.validation_rows(client)) if self.arranged else held[self.is_validation(client)]

    def train_rows(self, clients: Sequence[int]) -> slice | IntArray:
        """Give the rows of x and y with training examples of clients, one after another; a slice where it is one."""
        if not self.arranged:
            return np.concatenate([self.train_indices(client) for client in clients])
        chosen = np.asarray(clients)
        begins, ends = self.starts[chosen], self.starts[chosen + 1]
        if (begins[1:] == ends[:-1]).all():
            return slice(int(begins[0]), int(ends[-1]))
        sizes = ends - begins
        rows: IntArray = np.arange(sizes.sum()) + np.repeat(begins - np.cumsum(sizes) + sizes, sizes)
        return rows

    def validation_rows(self, client: int) -> slice | IntArray:
        """Give the rows of x and y with a client's validation examples; a slice where data are arranged."""
        if not self.arranged:
            return self.validation_indices(client)
        begin, end = self.starts[-1] + self.partition.offsets[client : client + 2] - self.starts[client : client + 2]
        return slice(int(begin), int(end))

    def train_arrays(self, client: int) -> tuple[Array, Array]:
        """Give x ``[n, *shape]`` and y of a client's training examples, as the client sees them.

        Raises:
            IndexError: there is no such client.
        """
        return self._seen(client, self.train_indices(client))

    def validation_arrays(self, client: int) -> tuple[Array, Array]:
        """Give x and y of a client's validation examples, through the same lens as its training examples.

        Raises:
            IndexError: there is no such client.
        """
        return self._seen(client, self.validation_indices(client))

    def _seen(self, client: int, examples: IntArray) -> tuple[Array, Array]:
        x = self.x[examples]
        if self.shift is not None:
            named = examples if self.origin is None else self.origin[examples]
            x = self.shift.apply(x, client=client, examples=named)
        return x, self.y[examples]

    def is_validation(self, client: int) -> Mask:
        """Say of each example that a client holds whether it is for validation, ``[n]``."""
        held = len(self.partition.indices(client))
        chosen = np.zeros(held, bool)
        count = int(self._validation_sizes(np.array([held]))[0])
        chosen[stream(self.seed, "validation", client=client).choice(held, count, replace=False, shuffle=False)] = True
        return chosen

    def _validation_sizes(self, held: IntArray) -> IntArray:
        wanted = np.rint(self.validation * held).astype(held.dtype)
        most = np.maximum(held - 1, 0)
        return np.asarray(np.minimum(wanted, most))


def _numbers(rows: slice | IntArray) -> IntArray:
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
