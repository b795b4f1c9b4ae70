"""Examples in the order of clients: those of a block then lie in one run of memory, and nothing has to be gathered.

Where a partition is random, the examples of a client lie all over the data set, and to put those of a block side by
side costs a third of what it takes to train a small model on them, in every round anew. So they are put in order once,
before workers hold them: training examples of one client after another, then validation examples. Who holds what, in
which order, and every number of it stay as they are; no result depends on where examples lie.
"""

from __future__ import annotations

import mmap
from dataclasses import replace

import numpy as np

from fedmomentum.data.dataset import Array
from fedmomentum.data.federated import FederatedData
from fedmomentum.data.partition import IntArray, Partition

ALIGNMENT = 64
"""Bytes; torch's own allocations begin at multiples of it, and matrix products round otherwise elsewhere."""
MOST_BYTES = 1 << 30
"""Inputs up to which they are moved: for as long as that takes there are two of them. Examples of larger data sets tend
to be large themselves, and those are gathered at the speed at which memory can be copied."""
MOST_DRAWS = 10_000
"""Clients up to which it is found out for all of them which examples they hold out: tens of microseconds each."""


def arrange(data: FederatedData, *, copy: bool = True) -> FederatedData:
    """Give the same federation with its examples renumbered in the order of clients, in aligned memory.

    What clients see is the same, number by number. Examples that nobody holds are left out. Nothing is copied where the
    examples lie in order already; and where the inputs are too large (``MOST_BYTES``) or in a mapped file, the data
    come back as they are.

    Example:
        >>> arranged = arrange(FederatedData.build(dataset, partition("dirichlet", labels=dataset.y, clients=100)))
        >>> arranged.train_rows([7, 8, 9])
        slice(..., ..., None)

    Args:
        data: not changed.
        copy: whether inputs may be copied; if not, only data without a validation part can turn out to be in order.
    """
    if data.arranged or (data.validation and (data.clients > MOST_DRAWS or not copy)):
        return data
    order = data.partition.order
    places = _places(data)
    if (order == places).all():  # they lie in order
        x, y = data.x[: len(order)], data.y[: len(order)]
        there = not copy or x.ctypes.data % ALIGNMENT == 0 or not _movable(x)
        return replace(data, x=x if there else _moved(x, None), y=y, arranged=True)
    if not copy or not _movable(data.x):
        return data
    rows = np.empty_like(order)
    rows[places] = order
    split = Partition(places, data.partition.offsets)
    return replace(data, x=_moved(data.x, rows), y=_moved(data.y, rows), partition=split, origin=rows, arranged=True)


def _places(data: FederatedData) -> IntArray:
    """Give where each entry of the partition's order is to lie: training examples first, then validation examples."""
    size = len(data.partition.order)
    if data.validation == 0:
        return np.arange(size, dtype=data.partition.order.dtype)
    held_out = np.concatenate([data.is_validation(client) for client in range(data.clients)])
    # a stable sort keeps the order of clients and, within each, the order in which it holds its examples
    in_order = np.argsort(held_out, kind="stable")
    places = np.empty_like(data.partition.order)
    places[in_order] = np.arange(size)
    return places


def _movable(x: Array) -> bool:
    """Say whether inputs may be copied: memory has room for them, and they do not lie in a file."""
    if x.nbytes > MOST_BYTES:
        return False
    owner: object = x
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return not isinstance(owner, mmap.mmap)


def _moved(array: Array, rows: IntArray | None) -> Array:
    """Copy rows of an array, or all of it, to memory that begins at a multiple of ``ALIGNMENT``."""
    shape = array.shape if rows is None else (len(rows), *array.shape[1:])
    size = array.dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    room = np.empty(size + ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % ALIGNMENT
    moved = room[begin : begin + size].view(array.dtype).reshape(shape)
    if rows is None:
        moved[...] = array
    else:
        np.take(array, rows, axis=0, out=moved, mode="clip")  # with "raise" there would be one more copy
    return moved
