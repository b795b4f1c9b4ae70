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

    def own(self, clients: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Give x and y of all training examples of clients, one client after another, in the order of their own.

        Where they lie so in the data set nothing moves. Either way inputs begin where torch's own memory would begin:
        matrix products round otherwise elsewhere, and where data lie depends on the engine.
        """
        if self.data.shift is not None:
            shifted = [self.data.train_arrays(client) for client in clients]
            x, y = (torch.cat([torch.from_numpy(arrays[i]) for arrays in shifted]) for i in (0, 1))
            return x.to(self.device), y.to(self.device)
        rows = np.concatenate([self.data.train_indices(client) for client in clients])
        first, last = int(rows[0]), int(rows[-1])
        if last - first == len(rows) - 1 and (np.diff(rows) == 1).all():
            x, y = self._x[first : last + 1], self._y[first : last + 1]
            return x if x.data_ptr() % ALIGNMENT == 0 else x.clone(), y
        chosen = torch.from_numpy(rows).to(self.device)
        return self._x.index_select(0, chosen), self._y.index_select(0, chosen)

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
