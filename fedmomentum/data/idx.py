"""The IDX file format of MNIST and its relatives: magic number, big-endian sizes, raw values; plain or gzipped."""

from __future__ import annotations

import gzip
import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np

from fedmomentum.data.dataset import Array
from fedmomentum.errors import UserError

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Third byte of the magic number -> numpy type."""


def read_idx(path: Path, *, axes: int | None = None) -> Array:
    """Read one IDX file: bytes ``0 0 type axes``, then ``axes`` sizes of four bytes, then the values.

    Args:
        path: a file, gzipped if it begins with gzip's magic number.
        axes: how many axes the array must have; None for any.

    Returns:
        The array, in the machine's byte order.

    Raises:
        UserError: the file cannot be read, has a bad magic number, is truncated, or has bytes left over; the message
            names the file and what would be right.
    """
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read as an IDX file: {error}") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in TYPES:
        raise UserError(
            f"{path}: not an IDX file: it begins with {raw[:4].hex(' ')!r}, an IDX file of bytes with 00 00 08"
        )
    dtype, rank = np.dtype(TYPES[raw[2]]), raw[3]
    if axes is not None and rank != axes:
        raise UserError(f"{path}: the array has {rank} axes; {axes} are needed")
    start = 4 + 4 * rank
    if len(raw) < start:
        raise UserError(f"{path}: truncated: {len(raw)} bytes, but {rank} axes need a header of {start}")
    shape = struct.unpack(f">{rank}I", raw[4:start])
    expected = start + prod(shape) * dtype.itemsize
    if len(raw) != expected:
        fault = "truncated" if len(raw) < expected else "has bytes left over"
        raise UserError(f"{path}: {fault}: {len(raw)} bytes, but shape {list(shape)} of {dtype.name} needs {expected}")
    return np.frombuffer(raw, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
