"""A worker's view of the data: minibatches as tensors, gathered from memory that all workers of a machine share."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum.data import FederatedData

ALIGNMENT = 64
"""Bytes; torch's own allocations begin at multiples of it."""


class Examples:
    """Gathers minibatches of clients from one resident copy of the data set."""

    def __init__(self, data: FederatedData, device: str) -> None:
        """Take the data; nothing is copied on a CPU."""
        self.data, self.device = data, device
        self._x, self._y = _resident(data.x, device), _resident(data.y, device)
        order = data.partition.order
        self._in_order = data.validation == 0 and bool((order == np.arange(len(order))).all())

    def count(self, client: int) -> int:
        """Give the number of training examples of a client."""
        return int(self.data.sizes[client])

    def block(
        self, clients: list[int], plans: list[NDArray[np.int64]]
    ) -> tuple[Tensor, Tensor, list[NDArray[np.int64]]]:
        """Give ``(x, y, rows)``: a source of examples, and each client's plan as rows of it (-1 stays -1).

        Where clients see the data as it is, the source is the whole data set and nothing moves; where a feature shift
        changes what they see, it is their own examples, side by side.
        """
        if self.data.shift is None:
            rows = [
                np.where(plan < 0, -1, self.data.train_indices(client)[plan])
                for client, plan in zip(clients, plans, strict=True)
            ]
            return self._x, self._y, rows
        shifted = [self.data.train_arrays(client) for client in clients]
        starts = np.cumsum([0] + [len(y) for _, y in shifted[:-1]])
        x = torch.from_numpy(np.concatenate([x for x, _ in shifted])).to(self.device)
        y = torch.from_numpy(np.concatenate([y for _, y in shifted])).to(self.device)
        return x, y, [np.where(plan < 0, -1, plan + start) for plan, start in zip(plans, starts, strict=True)]

    def own(self, clients: Sequence[int]) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
        """Give x and y of all training examples of clients, in the order of their own, and where each client's begin.

        One client comes after another in the order in which the data set has them; where they lie so in it nothing
        moves. Either way inputs begin where torch's own memory would begin: matrix products round otherwise elsewhere,
        and where data lie depends on the engine.
        """
        order = sorted(range(len(clients)), key=clients.__getitem__)
        sizes = self.data.sizes[[clients[k] for k in order]].astype(np.int64)
        starts = np.empty(len(clients), np.int64)
        starts[order] = np.cumsum(sizes) - sizes
        if self.data.shift is not None:
            shifted = [self.data.train_arrays(clients[k]) for k in order]
            x, y = (torch.cat([torch.from_numpy(arrays[i]) for arrays in shifted]) for i in (0, 1))
            return x.to(self.device), y.to(self.device), starts
        run = self._run(clients[order[0]], clients[order[-1]], len(clients))
        if run is not None:
            x, y = self._x[run], self._y[run]
            return x if x.data_ptr() % ALIGNMENT == 0 else x.clone(), y, starts
        rows = np.concatenate([self.data.train_indices(clients[k]) for k in order])
        chosen = torch.from_numpy(rows).to(self.device)
        return self._x.index_select(0, chosen), self._y.index_select(0, chosen), starts

    def _run(self, first: int, last: int, count: int) -> slice | None:
        """Give the rows of these clients where they have numbers in a row, and examples that lie so; else None."""
        if not self._in_order or last - first != count - 1:
            return None
        offsets = self.data.partition.offsets
        return slice(int(offsets[first]), int(offsets[last + 1]))

    def validation(self, client: int) -> tuple[Tensor, Tensor]:
        """Give a client's validation examples, or its training examples where nothing was set aside."""
        x, y = self.data.validation_arrays(client)
        if len(y) == 0:
            x, y = self.data.train_arrays(client)
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.device), torch.from_numpy(np.array(y)).to(self.device)


def _resident(array: np.ndarray, device: str) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shared memory is read-only, and only ever read here
        return torch.from_numpy(array).to(device)
