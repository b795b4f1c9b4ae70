"""Between Flower's ArrayRecords, numpy views and trees of tensors, at the price of a copy or of none.

An ``Array`` holds the bytes of a ``.npy`` file. Reading one through ``numpy.load`` copies twice and parses the header
as Python source each time; here the header is parsed once for each distinct one, and the numbers are viewed in place.
Within the engine nobody looks at these bytes: a record of ours holds the numbers, and makes an ``Array`` of them when
somebody asks for it (:class:`Unread`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import lru_cache
from io import BytesIO
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum.protocol import LARGE
from fedmomentum.trees import Tree, borrowed

Views: TypeAlias = dict[str, NDArray[Any]]
"""Named arrays that share memory with the record they were read from: never write to one."""

Record = TypeVar("Record", bound=MutableMapping[str, Any])
Entry = TypeVar("Entry")

_STYPE = "numpy.ndarray"
_VERSION_1 = b"\x93NUMPY\x01\x00"
_PREFIX = len(_VERSION_1) + 2  # the magic string, then two bytes with the length of the header


@lru_cache(maxsize=4096)
def _parse(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    return np.lib.format.read_array_header_1_0(BytesIO(header))


@lru_cache(maxsize=4096)
def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    buffer = BytesIO()
    layout = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, layout)
    return buffer.getvalue()


def view(array: Array) -> NDArray[Any]:
    """Give the numbers of one ``Array`` without copying them; the result is read-only.

    Raises:
        ValueError: the bytes are not those of an array of numbers in the shape and dtype that the ``Array`` states.
        TypeError: it is serialized in another way than numpy's.
    """
    data = array.data
    if array.stype != _STYPE or not data.startswith(_VERSION_1):
        numbers = array.numpy()
    else:
        start = _PREFIX + int.from_bytes(data[_PREFIX - 2 : _PREFIX], "little")
        shape, fortran, dtype = _parse(data[_PREFIX - 2 : start])
        count = math.prod(shape)
        if len(data) - start != count * dtype.itemsize:
            raise ValueError(f"{len(data) - start} bytes where {count * dtype.itemsize} make an array {list(shape)}")
        flat = np.frombuffer(data, dtype, count=count, offset=start)
        numbers = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return _real(numbers)


def _real(numbers: NDArray[Any]) -> NDArray[Any]:
    if numbers.dtype.kind not in "biuf":
        raise ValueError(f"it holds {numbers.dtype}, not real numbers")
    return numbers if numbers.dtype.isnative else numbers.astype(numbers.dtype.newbyteorder("="))


class Late(MutableMapping[str, Entry]):
    """Named entries, each made when it is looked at; what a record keeps in place of a dict.

    Args:
        entries: by name, each an entry, or what one is made of.
        kind: of entries.
        make: makes an entry of anything else.
    """

    def __init__(self, entries: Mapping[str, Any], kind: type[Entry], make: Callable[[Any], Entry]) -> None:
        """Make nothing yet."""
        self._entries, self._kind, self._make = dict(entries), kind, make

    def __getitem__(self, name: str) -> Entry:
        """Give an entry, from now on the same one."""
        x = self._entries[name]
        if not isinstance(x, self._kind):
            x = self._entries[name] = self._make(x)
        return x

    def __setitem__(self, name: str, value: Entry) -> None:
        """Put an entry in its place."""
        self._entries[name] = value

    def __delitem__(self, name: str) -> None:
        """Take one out."""
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        """Say whether there is one of that name, and make none."""
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """Give the names."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Give how many there are."""
        return len(self._entries)

    def __repr__(self) -> str:
        """Give the text of a dict."""
        return repr(dict(self))

    def __reduce__(self) -> tuple[type[dict[str, Entry]], tuple[dict[str, Entry]]]:
        """Leave this process as a dict: where it comes to, this class need not be."""
        return dict, (dict(self),)

    def copy(self) -> Late[Entry]:
        """Give another mapping of the same entries."""
        out = object.__new__(type(self))
        out._entries, out._kind, out._make = dict(self._entries), self._kind, self._make
        return out


class Unread(Late[Array]):
    """Arrays, each made of its numbers when it is looked at.

    Args:
        entries: Arrays, and numbers that nobody will write to.
    """

    def __init__(self, entries: Mapping[str, NDArray[Any] | Array] | Mapping[str, Array]) -> None:
        """Take entries."""
        given = entries._entries if isinstance(entries, Unread) else entries
        super().__init__({n: x if isinstance(x, Array) else _read_only(x) for n, x in given.items()}, Array, array)

    def entry(self, name: str) -> NDArray[Any] | Array:
        """Give an entry as it is."""
        return self._entries[name]  # type: ignore[no-any-return]

    def read(self, name: str) -> NDArray[Any]:
        """Give the numbers of an entry.

        Raises:
            ValueError, TypeError: as for :func:`view`.
        """
        x = self._entries[name]
        return view(x) if isinstance(x, Array) else _real(x)


def unread(entries: Mapping[str, NDArray[Any] | Array]) -> ArrayRecord:
    """Give a record of numbers that nobody will write to: no copy is made, and no Array before it is looked at."""
    return keeping(ArrayRecord(), Unread(entries))


def keeping(record: Record, entries: Late[Any]) -> Record:
    """Let a new record keep entries that are made late."""
    record.__dict__["_data"] = entries
    return record


def _read_only(numbers: NDArray[Any]) -> NDArray[Any]:
    out = numbers.view()
    out.setflags(write=False)
    return out


def _entries_of(record: Mapping[str, Array]) -> Mapping[str, Array]:
    return record.__dict__["_data"] if isinstance(record, ArrayRecord) else record


def views(record: Mapping[str, Array]) -> Views:
    """Give the numbers of a record without copying them.

    Raises:
        ValueError: a tensor cannot be read; the message names it.
    """
    out: Views = {}
    entries = _entries_of(record)
    for name in entries:
        try:
            out[name] = entries.read(name) if isinstance(entries, Unread) else view(entries[name])
        except Exception as error:  # a client sent these bytes, and numpy has many ways to choke on bad ones
            raise ValueError(f"tensor '{name}' cannot be read: {error}") from error
    return out


def tree(arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, Tensor]:
    """Give tensors in memory of their own, each made when it is looked at.

    Those of a large model are read in place, and nobody may write to them.
    """
    large = sum(x.nbytes for x in arrays.values()) >= LARGE
    return Late(arrays, Tensor, _borrowed if large else _copied)


def shared(arrays: Mapping[str, NDArray[Any]]) -> Tree:
    """Give tensors in the memory of the arrays: never write to one."""
    return {name: _borrowed(x) for name, x in arrays.items()}


def _borrowed(numbers: NDArray[Any]) -> Tensor:
    return borrowed(np.asarray(numbers, order="C"))


def _copied(numbers: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(numbers, order="C"))


def record(
    tensors: Mapping[str, Tensor | NDArray[Any]], made: Mapping[str, Array] = MappingProxyType({})
) -> ArrayRecord:
    """Give the ArrayRecord of named tensors or arrays: the very bytes that Flower's own conversion gives.

    Args:
        tensors: by name; they are copied, once.
        made: Arrays by name, of a record; one whose memory a tensor lies in is taken as it is.
    """
    arrays = {name: x.numpy(force=True) if isinstance(x, Tensor) else x for name, x in tensors.items()}
    small = sum(x.nbytes for x in arrays.values()) < LARGE
    held = Unread(_entries_of(made))
    entries: dict[str, NDArray[Any] | Array] = {}
    for name, x in arrays.items():
        if name in held and _same(held.read(name), x):
            entries[name] = held.entry(name)
        else:  # of a large model one copy is made, whoever looks at it; of a small one each look may cost another
            entries[name] = np.array(x, order="C") if small else array(x)
    return unread(entries)


def array(numbers: NDArray[Any]) -> Array:
    """Give the Array of numbers."""
    shape = tuple(int(length) for length in numbers.shape)
    flat = np.ascontiguousarray(numbers).reshape(-1).view(np.uint8)
    data = b"".join((_header(numbers.dtype, shape), flat.data))  # one copy, and no second one on the way
    return Array(str(numbers.dtype), shape, _STYPE, data)


def filled(record: Record, entries: Mapping[str, Any]) -> Record:
    """Put entries of the right types into a record of Flower's: each costs microseconds when it is assigned.

    Where a record keeps them is a private name of Flower, used here, in :func:`keeping` and by who reads them;
    ``tests/simulation/test_parts.py`` notices when it moves.
    """
    record.__dict__["_data"].update(entries)
    return record


def of_kind(content: RecordDict, kind: type[Record]) -> dict[str, Record]:
    """Give the records of one kind by name; Flower's own views of a content copy it twice."""
    # what isinstance says, but for abstract base classes, as records are, that takes a call in Python
    return {name: record for name, record in content.items() if kind in type(record).__mro__}  # type: ignore[misc]


def _same(held: NDArray[Any], numbers: NDArray[Any]) -> bool:
    same = held.dtype == numbers.dtype and held.shape == numbers.shape and held.ctypes.data == numbers.ctypes.data
    return same and held.flags.c_contiguous and numbers.flags.c_contiguous
