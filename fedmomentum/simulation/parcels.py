"""Objects packed for another process of this machine: small ones as bytes, larger ones in shared memory.

Shared memory is a file without a name that lies in memory. One process writes it, once for all who read it; they map
it and read arrays where they lie. It is gone when nobody holds it any more, however the processes end.
"""

from __future__ import annotations

import copyreg
import mmap
import os
import pickle
import weakref
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedmomentum.protocol import LARGE

LIGHT = 48 << 10
"""Bytes up to which an object goes as bytes: to write and read shared memory takes longer than to copy them twice."""
SEATS = 4096
"""Readers of a press, itself among them: a page, so that what is written begins on another one."""
KEPT = 8
"""Sheets that a press keeps to write on again."""

_LINE = 64
"""Bytes that arrays are aligned to, as torch aligns its own."""
_NOBODY = bytes(SEATS)
_SCRIPT = b"__main__"

Dumps: TypeAlias = Callable[..., bytes]
"""Pickles an object as ``pickle.dumps`` does; takes ``protocol`` and ``buffer_callback``."""


def _call_for(numbers: NDArray[Any]) -> Any:
    """Give the one call that makes an array again where its buffer lies; numpy's own way takes several."""
    if numbers.dtype.kind in "biufc" and numbers.flags.c_contiguous:
        return np.ndarray, (numbers.shape, numbers.dtype.str, pickle.PickleBuffer(numbers.data))
    return numbers.__reduce_ex__(5)


class _Pickler(pickle.Pickler):
    dispatch_table = copyreg.dispatch_table | {np.ndarray: _call_for}


def _pickled(value: Any, buffers: list[pickle.PickleBuffer]) -> bytes:
    stream = BytesIO()
    _Pickler(stream, 5, buffer_callback=buffers.append).dump(value)
    return stream.getvalue()


@dataclass(frozen=True)
class Sheet:
    """A piece of shared memory at its writer.

    Its first page says who holds it, a byte for each seat: the writer sets it, the reader clears it when the last array
    that lies there is gone. A sheet that is written only ``once`` has no such page.
    """

    number: int
    file: int
    size: int
    once: bool

    def lend(self, seat: int) -> None:
        """Note that a reader holds it."""
        if not self.once:
            os.pwrite(self.file, b"\1", seat)

    def take_back(self, seat: int) -> None:
        """Note for a reader that it holds it no more."""
        if not self.once:
            os.pwrite(self.file, b"\0", seat)

    @property
    def free(self) -> bool:
        """Whether nobody holds it."""
        return os.pread(self.file, SEATS, 0) == _NOBODY


@dataclass
class Packed:
    """An object as pieces, which are its pickle and the buffers of its arrays; they lie in data, or on a sheet."""

    places: tuple[tuple[int, int], ...]
    """Where each of them begins and ends."""
    data: bytes = b""
    sheet: Sheet | None = None

    def close(self) -> None:
        """Let go of it: it is sent to nobody any more."""
        sheet, self.sheet = self.sheet, None
        if sheet is None:
            return
        if sheet.once:
            os.close(sheet.file)
        else:
            sheet.take_back(0)


class Press:
    """Packs objects, and writes what is large on sheets, which it uses again when nobody holds them.

    Args:
        dumps: pickles what ``pickle`` cannot, or what its reader could not find: functions and classes of a script.
    """

    def __init__(self, dumps: Dumps) -> None:
        """Begin without a sheet."""
        self._dumps = dumps
        self._numbers = count(1)
        self._sheets: dict[int, Sheet] = {}
        self._seats = iter(range(1, SEATS))

    def pack(self, value: Any) -> Packed:
        """Pack an object; whoever packs it closes it.

        Raises:
            Exception: it cannot be pickled.
        """
        buffers: list[pickle.PickleBuffer] = []
        try:
            stream = _pickled(value, buffers)
        except Exception:  # it depends on what is in it which one
            stream = _SCRIPT
        if _SCRIPT in stream:
            buffers.clear()
            stream = self._dumps(value, protocol=5, buffer_callback=buffers.append)
        pieces: list[Any] = [stream, *(buffer.raw() for buffer in buffers)]
        lengths = tuple(map(len, pieces))
        places, size = layout(lengths)
        if size <= LIGHT:
            return Packed(tuple(places), _joined(pieces, places))
        sheet = self._sheet(lengths)
        index = np.array(lengths, np.uint64)
        begin = 0 if sheet.once else SEATS
        places, _ = layout((index.nbytes, *lengths), begin, paged=sheet.once)
        for piece, (place, _) in zip((index.tobytes(), *pieces), places, strict=True):
            _write(sheet.file, memoryview(piece), place)
        return Packed(tuple(places[1:]), sheet=sheet)

    def _sheet(self, lengths: Sequence[int]) -> Sheet:
        """Give a sheet with room for so much, marked as held by this process."""
        once = sum(lengths) >= LARGE
        _, size = layout((8 * len(lengths), *lengths), 0 if once else SEATS, paged=once)
        if not once:
            fits = [sheet for sheet in self._sheets.values() if sheet.size >= size and sheet.free]
            if fits:
                best = min(fits, key=lambda sheet: sheet.size)
                best.lend(0)
                return best
            self._retire(size)
        sheet = Sheet(next(self._numbers), os.memfd_create("fedmomentum", os.MFD_CLOEXEC), size, once)
        os.ftruncate(sheet.file, size)
        if not once:
            self._sheets[sheet.number] = sheet
            sheet.lend(0)
        return sheet

    def _retire(self, size: int) -> None:
        """Keep no sheets that are too small, nor too many; who holds one that goes can read it as long as he likes."""
        for sheet in [sheet for sheet in self._sheets.values() if sheet.size < size and sheet.free]:
            os.close(self._sheets.pop(sheet.number).file)
        done = [sheet for sheet in self._sheets.values() if os.pread(sheet.file, 1, 0) == b"\0"]
        for sheet in done[: max(0, len(self._sheets) + 1 - KEPT)]:
            os.close(self._sheets.pop(sheet.number).file)

    @property
    def numbers(self) -> set[int]:
        """The sheets that may be written on again."""
        return set(self._sheets)

    def seat(self) -> int | None:
        """Give a new reader a seat; None where there is none left. Nobody ever gets it again: two could be mixed up."""
        return next(self._seats, None)

    def leave(self, seat: int) -> None:
        """Let go of all that a reader holds, because he is gone."""
        for sheet in self._sheets.values():
            sheet.take_back(seat)

    def close(self) -> None:
        """Keep nothing."""
        while self._sheets:
            os.close(self._sheets.popitem()[1].file)


def layout(lengths: Sequence[int], begin: int = 0, *, paged: bool = False) -> tuple[list[tuple[int, int]], int]:
    """Give where pieces of these lengths begin and end, one behind the other, and where the last one ends.

    Args:
        lengths: in bytes.
        begin: of the first one.
        paged: whether large pieces begin on a page of their own, so that their memory can go when they do.
    """
    places: list[tuple[int, int]] = []
    end = begin
    for length in lengths:
        alignment = mmap.PAGESIZE if paged and length >= mmap.PAGESIZE else _LINE
        first = -(-end // alignment) * alignment
        end = first + length
        places.append((first, end))
    return places, end


def from_bytes(places: Sequence[tuple[int, int]], data: memoryview, *, own: bool) -> Any:
    """Give the object whose pieces lie in bytes; its arrays get memory of their own.

    Args:
        places: where each piece begins and ends.
        data: where they lie; may be overwritten afterwards.
        own: whether arrays may be written to.
    """
    if len(places) == 1:
        return pickle.loads(data)
    space = array("B", bytes(len(data) + _LINE))
    first = -space.buffer_info()[0] % _LINE
    held = memoryview(space)[first : first + len(data)]
    held[:] = data
    return _unpack(held if own else held.toreadonly(), places)


class Reading:
    """A sheet at a reader."""

    def __init__(self, file: int, size: int, *, once: bool) -> None:
        """Map a file, and close it."""
        self._once = once
        try:
            self._map = mmap.mmap(file, size)
        finally:
            os.close(file)

    def take(self, pieces: int, *, seat: int, own: bool) -> Callable[[], Any]:
        """Give what gives the object; when that and the last of the object's arrays are gone, the seat is left.

        Args:
            pieces: their number.
            seat: of this reader.
            own: whether arrays may be written to. Then this is the only reader, and the memory of large arrays on a
                sheet that is written once goes back to the system as they go.
        """
        begin = 0 if self._once else SEATS
        lengths = np.frombuffer(self._map, np.uint64, pieces, begin).tolist()
        places = layout((8 * pieces, *lengths), begin, paged=self._once)[0][1:]
        if self._once and own:
            return lambda: self._piece_by_piece(places)
        root = np.frombuffer(self._map, np.uint8)
        if not self._once:
            _when_gone(root, _leave, self._map, seat)
        held = root.data
        return lambda: _unpack(held if own else held.toreadonly(), places)

    def _piece_by_piece(self, places: Sequence[tuple[int, int]]) -> Any:
        views = []
        for place, end in places:
            root = np.frombuffer(self._map, np.uint8, end - place, place)
            if whole := (end - place) // mmap.PAGESIZE * mmap.PAGESIZE:
                _when_gone(root, _give_back, self._map, place, whole)
            views.append(root.data)
        return pickle.loads(views[0], buffers=views[1:])


def _joined(pieces: Sequence[Any], places: Sequence[tuple[int, int]]) -> bytes:
    """Give pieces one behind the other, each at its place."""
    parts: list[Any] = []
    last = 0
    for piece, (begin, end) in zip(pieces, places, strict=True):
        parts += (bytes(begin - last), piece)
        last = end
    return b"".join(parts)


def _unpack(held: memoryview, places: Sequence[tuple[int, int]]) -> Any:
    views = [held[begin:end] for begin, end in places]
    return pickle.loads(views[0], buffers=views[1:])


def _when_gone(thing: Any, call: Callable[..., None], *arguments: Any) -> None:
    weakref.finalize(thing, call, *arguments).atexit = False


def _leave(mapped: mmap.mmap, seat: int) -> None:
    mapped[seat] = 0


def _give_back(mapped: mmap.mmap, place: int, length: int) -> None:
    mapped.madvise(mmap.MADV_REMOVE, place, length)


def _write(file: int, left: memoryview, at: int) -> None:
    while left:
        written = os.pwrite(file, left, at)
        left, at = left[written:], at + written
