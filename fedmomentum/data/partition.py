"""A partition: which examples each client holds, as one order of examples and one offset a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, eq=False)
class Partition:
    """Client c holds the examples ``order[offsets[c] : offsets[c + 1]]``; no example has two clients.

    Args:
        order: ``[n]`` indices of examples, n <= N (a partitioner says where it leaves examples out).
        offsets: ``[C + 1]``, from 0 to n, never falling.

    Raises:
        ValueError: the offsets do not describe ``order``.
    """

    order: IntArray
    offsets: IntArray

    def __post_init__(self) -> None:
        """Refuse offsets that do not describe the order."""
        if self.offsets.ndim != 1 or len(self.offsets) < 2:
            raise ValueError(f"offsets of shape {list(self.offsets.shape)}: one axis of C + 1 >= 2 numbers is needed")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.order) or (np.diff(self.offsets) < 0).any():
            raise ValueError(f"offsets must rise from 0 to {len(self.order)}, the number of examples in order")

    @classmethod
    def from_owners(cls, owners: IntArray, clients: int) -> Partition:
        """Give the partition in which example i belongs to client ``owners[i]``, or to nobody where that is -1."""
        kept = np.flatnonzero(owners >= 0) if (owners < 0).any() else None
        held = owners if kept is None else owners[kept]
        # Stable sorts of 16-bit keys are radix sorts, several times faster than those of wider ones.
        keys = held.astype(np.uint16) if clients <= 1 << 16 else held
        by_client = np.argsort(keys, kind="stable")
        order = by_client if kept is None else kept[by_client]
        sizes = np.bincount(held, minlength=clients)
        return cls(order.astype(index_type(len(owners)), copy=False), offsets_of(sizes))

    def indices(self, client: int) -> IntArray:
        """Give the examples of one client: a view, never a copy.

        Raises:
            IndexError: there is no such client.
        """
        if not 0 <= client < len(self):
            raise IndexError(f"client {client} is not in 0 .. {len(self) - 1}")
        return self.order[self.offsets[client] : self.offsets[client + 1]]

    @property
    def sizes(self) -> IntArray:
        """Examples of every client, ``[C]``."""
        return np.diff(self.offsets)

    def owners(self) -> IntArray:
        """Give the client of each entry of ``order``, ``[n]``."""
        return np.repeat(np.arange(len(self), dtype=index_type(len(self))), self.sizes)

    def __len__(self) -> int:
        """Give the number of clients, C."""
        return len(self.offsets) - 1


def index_type(size: int) -> type[np.signedinteger[Any]]:
    """Give the narrowest of int32 and int64 that can count to ``size``."""
    return np.int32 if size <= np.iinfo(np.int32).max else np.int64


def offsets_of(sizes: IntArray) -> IntArray:
    """Give ``[0, s_0, s_0 + s_1, ...]``."""
    ends = np.cumsum(sizes, dtype=np.int64)
    return np.concatenate([[0], ends]).astype(index_type(int(ends[-1])))
