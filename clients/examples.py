"""A worker's view of the data: minibatches as tensors, gathered from memory that all workers of a machine share."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum.data import FederatedData


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
