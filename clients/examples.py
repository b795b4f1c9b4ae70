"""A worker's view of the data: minibatches as tensors, gathered from memory that all workers of a machine share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum.data import FederatedData, arrange
from fedmomentum.data.client_order import ALIGNMENT
from fedmomentum.trees import borrowed


class Examples:
    """Gathers minibatches of clients from one resident copy of the data set."""

    def __init__(self, data: FederatedData, device: str) -> None:
        """Take the data; nothing is copied on a CPU, and to a GPU only data that leave it half of its free memory."""
        self.data, self.device = arrange(data, copy=False), device
        self.resident = fits(data.x.nbytes + data.y.nbytes, device)
        """Whether the data lie where clients train; else a block's examples go there when it begins."""
        at = device if self.resident else "cpu"
        self._x, self._y = _resident(data.x, at), _resident(data.y, at)

    def count(self, client: int) -> int:
        """Give the number of training examples of a client."""
        return int(self.data.sizes[client])

    def block(
        self, clients: list[int], plans: list[NDArray[np.int64]]
    ) -> tuple[Tensor, Tensor, list[NDArray[np.int64]]]:
        """Give ``(x, y, rows)``: a source of examples, and each client's plan as rows of it (-1 stays -1).

        Where clients see the data as it is, the source is the whole data set and nothing moves; where a feature shift
        changes what they see, or the data do not fit on the device, it is their own examples, side by side.
        """
        if self.data.shift is None and not self.resident:
            sizes = self.data.sizes[clients].astype(np.int64)
            x, y = self._at(self.data.train_rows(clients))
            return x, y, _moved(plans, np.cumsum(sizes) - sizes)
        if self.data.shift is None and self.data.arranged:
            return self._x, self._y, _moved(plans, self.data.starts[clients].astype(np.int64))
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
        return x, y, _moved(plans, starts)

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
        x, y = self._at(self.data.train_rows([clients[k] for k in order]))
        return x, y, starts

    def _at(self, rows: slice | NDArray[np.integer]) -> tuple[Tensor, Tensor]:
        """Give x and y of these rows on the device: where they lie, if they are one run that torch could have made.

        They go to a GPU through pinned memory: nothing waits for the copy.
        """
        if isinstance(rows, slice):
            x, y = self._x[rows], self._y[rows]
            if x.data_ptr() % ALIGNMENT:
                x = x.clone()
        else:
            chosen = torch.from_numpy(np.ascontiguousarray(rows)).to(self._x.device)
            x, y = self._x.index_select(0, chosen), self._y.index_select(0, chosen)
        if self.resident or not self.device.startswith("cuda"):
            return x.to(self.device), y.to(self.device)
        # torch uses pinned memory again only when the copy out of it has been made
        return x.pin_memory().to(self.device, non_blocking=True), y.pin_memory().to(self.device, non_blocking=True)

    def validation(self, client: int) -> tuple[Tensor, Tensor]:
        """Give a client's validation examples, or its training examples where nothing was set aside."""
        if self.data.shift is not None:
            seen, labels = self.data.validation_arrays(client)
            if len(labels) == 0:
                seen, labels = self.data.train_arrays(client)
            return torch.from_numpy(np.ascontiguousarray(seen)).to(self.device), torch.from_numpy(labels).to(
                self.device
            )
        rows = self.data.validation_rows(client)
        if (rows.stop - rows.start if isinstance(rows, slice) else len(rows)) == 0:
            rows = self.data.train_rows([client])
        x, y = self._at(rows)
        return x.clone() if isinstance(rows, slice) else x, y  # a model of the user's may write to what it is given


def _moved(plans: list[NDArray[np.int64]], starts: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Give plans of positions in clients' own examples as plans of rows, where each client's begin at one of these."""
    return [np.where(plan < 0, -1, plan + start) for plan, start in zip(plans, starts, strict=True)]


def fits(size: int, device: str) -> bool:
    """Say whether data of so many bytes may lie where clients train."""
    return not device.startswith("cuda") or size <= torch.cuda.mem_get_info(device)[0] // 2


def _resident(array: np.ndarray, device: str) -> Tensor:
    return borrowed(array).to(device)
