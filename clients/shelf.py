"""Where sums of large models lie: in files without a name, whose pages are in memory only while they are worked on."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum.clients.block import Arrays
from fedmomentum.trees import Tree

_DISK = Path("/var/tmp")
"""The system's folder for large temporary files, on a disk: ``/tmp`` is memory on many. ``TMPDIR`` comes first."""
_ALIGNMENT = 64
"""Bytes; torch's own allocations begin at multiples of it."""
CHUNK = 1 << 16
"""Numbers at a time: what is made on the way stays in the processor's cache."""
RESIDENT = 8 << 20
"""Bytes that are worked on before their pages are let go."""


_LENT: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
"""All such memory of this process."""


def rest() -> None:
    """Let the pages of all sums in files go that are in memory; what is in them stays in the files."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for pages in list(_LENT):
            pages.madvise(mmap.MADV_DONTNEED)  # shared memory of a file: only the mapping goes, not what is in it


class Shelf:
    """Gives memory that lies in files. Nothing is left of it when the process ends, however.

    The system keeps what is written there for as long as it has memory to spare, and on disk otherwise.
    """

    def __init__(self) -> None:
        """Make no file yet."""
        self._boards: list[_Board] = []
        self._free: list[mmap.mmap] = []

    def room(self, like: Mapping[str, Tensor]) -> Tree | None:
        """Give tensors of these shapes and dtypes, whatever they hold; None where the disk has no room for them."""
        starts, size = {}, 0
        for name, x in like.items():
            starts[name] = size
            size += -(-x.numel() * x.element_size() // _ALIGNMENT) * _ALIGNMENT
        if not size:
            return None
        pages = next((free for free in self._free if len(free) >= size), None)
        if pages is not None:
            self._free.remove(pages)
        elif (pages := _mapped(size)) is None:
            return None
        flat = torch.frombuffer(pages, dtype=torch.uint8)
        self._boards = [*(board for board in self._boards if board.pages() is not None), _Board(pages, flat.data_ptr())]
        return {
            name: flat[start : start + like[name].numel() * like[name].element_size()]
            .view(like[name].dtype)
            .view(like[name].shape)
            for name, start in starts.items()
        }

    def put(self, sums: Mapping[str, Arrays]) -> dict[str, Arrays]:
        """Give sums that are to wait, in a file; they stay in memory where the disk has no room for them."""
        kept = {}
        for record, arrays in sums.items():
            kept[record] = arrays
            if all(self._board(x) is not None for x in arrays.values()):
                continue
            tensors = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in arrays.items()}
            if (room := self.room(tensors)) is not None:
                for name, to in room.items():
                    to.copy_(tensors[name])
                    rest()
                kept[record] = {name: to.numpy() for name, to in room.items()}
        rest()
        return kept

    def join(self, kept: Mapping[str, Arrays], onto: dict[str, Arrays]) -> dict[str, Arrays]:
        """Add sums in place onto others, which may be written to; the former's memory is free then."""
        for record, arrays in kept.items():
            worked = 0
            for name, x in arrays.items():
                flat, to = x.reshape(-1), onto[record][name].reshape(-1)
                for begin in range(0, flat.size, CHUNK):
                    part = slice(begin, begin + CHUNK)
                    np.add(to[part], flat[part], out=to[part])
                    worked += flat[part].nbytes
                    if worked >= RESIDENT:
                        rest()
                        worked = 0
        rest()
        gone = {id(b): b for arrays in kept.values() for x in arrays.values() if (b := self._board(x)) is not None}
        for board in gone.values():
            self._boards.remove(board)
            if (pages := board.pages()) is not None:
                self._free.append(pages)
        return onto

    def clear(self) -> None:
        """Give the files back that nobody's sums lie in."""
        self._free.clear()

    def _board(self, x: NDArray[np.generic]) -> _Board | None:
        at = x.__array_interface__["data"][0]
        for board in self._boards:
            pages = board.pages()
            if pages is not None and board.begin <= at < board.begin + len(pages):
                return board
        return None


class _Board:
    """The memory of a file, for as long as anybody holds a part of it."""

    def __init__(self, pages: mmap.mmap, begin: int) -> None:
        self.pages, self.begin = weakref.ref(pages), begin


def _mapped(size: int) -> mmap.mmap | None:
    """Give the memory of a new file whose room on the disk is taken already: a write must not fail later."""
    disk = None if "TMPDIR" in os.environ or not os.access(_DISK, os.W_OK) else _DISK
    try:
        with tempfile.TemporaryFile(dir=disk) as file:
            _reserve(file, size)
            pages = mmap.mmap(file.fileno(), size)
    except OSError:
        return None
    _LENT.add(pages)
    return pages


def _reserve(file: IO[bytes], size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    zeros = bytes(min(size, RESIDENT))  # macOS, Windows
    for begin in range(0, size, RESIDENT):
        file.write(zeros[: min(RESIDENT, size - begin)])
    file.flush()
