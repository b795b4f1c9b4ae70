"""Where sums of large models wait for the other half of their subtree: in a file without a name, not in memory."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from fedmomentum.clients.block import Arrays

_DISK = Path("/var/tmp")
"""The system's folder for large temporary files, on a disk: ``/tmp`` is memory on many. ``TMPDIR`` comes first."""
_CHUNK = 1 << 16
"""Numbers that are read at a time."""


@dataclass(frozen=True)
class Place:
    """Where sums begin in the file, and what they are: record, name, dtype and shape of each."""

    begin: int
    layout: tuple[tuple[str, str, np.dtype[np.generic], tuple[int, ...]], ...]


class Shelf:
    """A stack of sums: what was put last is taken first. Nothing is left of it when the process ends, however."""

    def __init__(self) -> None:
        """Make no file yet."""
        self._file: IO[bytes] | None = None
        self._end = 0

    def put(self, sums: dict[str, Arrays]) -> Place | None:
        """Write sums; None where there is no room for them, so that they have to stay in memory."""
        begin = end = self._end
        try:
            if self._file is None:
                disk = None if "TMPDIR" in os.environ or not os.access(_DISK, os.W_OK) else _DISK
                self._file = tempfile.TemporaryFile(dir=disk)  # noqa: SIM115 - it lives as long as this does
            for arrays in sums.values():
                for x in arrays.values():
                    left = np.ascontiguousarray(x).reshape(-1).view(np.uint8).data
                    while left:
                        written = os.pwrite(self._file.fileno(), left, end)
                        left, end = left[written:], end + written
        except OSError:
            return None
        self._end = end
        return Place(begin, tuple((r, n, x.dtype, x.shape) for r, arrays in sums.items() for n, x in arrays.items()))

    def take(self, place: Place, onto: dict[str, Arrays] | None = None) -> dict[str, Arrays]:
        """Give the sums that were put last, or add them in place ``onto`` others, which may be written to."""
        assert self._file is not None
        at = place.begin
        sums: dict[str, Arrays] = {}
        for record, name, dtype, shape in place.layout:
            held = np.empty(shape, dtype) if onto is None else onto[record][name]
            flat = held.reshape(-1)
            for begin in range(0, flat.size, _CHUNK):
                part = flat[begin : begin + _CHUNK]
                kept = np.frombuffer(os.pread(self._file.fileno(), part.nbytes, at), dtype)
                part[:] = kept if onto is None else part + kept
                at += part.nbytes
            sums.setdefault(record, {})[name] = held
        self._end = place.begin
        return sums
