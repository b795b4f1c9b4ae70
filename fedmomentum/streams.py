"""Random streams by name, not by counter.

Every random choice asks for its own stream, ``stream(seed, "batches", round=3, client=7)``, so a result never depends
on how many other choices were made before it, on which worker made them, or on whether a run was resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def _text(seed: int, name: str, coordinates: Mapping[str, int]) -> str:
    return f"{seed}/{name}" + "".join([f"/{k}={int(v)}" for k, v in sorted(coordinates.items())])


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _digest(seed: int, name: str, coordinates: Mapping[str, int]) -> bytes:
    return _hash(_text(seed, name, coordinates))


def key(seed: int, name: str, **coordinates: int) -> int:
    """Give the 63-bit number that names a stream; equal arguments give equal numbers on every machine."""
    return int.from_bytes(_digest(seed, name, coordinates)[:8], "little") >> 1


def stream(seed: int, name: str, **coordinates: int) -> np.random.Generator:
    """Give a numpy generator (Philox) of its own for one named choice.

    Example:
        >>> rng = stream(0, "batches", round=3, client=7)
    """
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(seed, name, coordinates), "little")))


_MARK = -1
"""No coordinate has it: they count."""


class Streams:
    """Streams of one name, one after another: the numbers of :func:`stream` at a third of its price.

    Example:
        >>> batches = Streams(0, "batches")
        >>> rng = batches.at(round=3, client=7)  # until the next `at`
    """

    def __init__(self, seed: int, name: str) -> None:
        """Take what all of the streams share."""
        self._seed, self._name = seed, name
        self._bits = np.random.Philox(key=0)
        self._start = self._bits.state
        self._rng = np.random.Generator(self._bits)

    def at(self, **coordinates: int) -> np.random.Generator:
        """Give the generator at the beginning of a stream; it leaves the stream that it gave before."""
        return self._begin(_digest(self._seed, self._name, coordinates))

    def along(self, coordinate: str, values: Iterable[int], **others: int) -> Iterator[np.random.Generator]:
        """Give the generator at the beginning of each of the streams that differ in one coordinate, as ``at`` does.

        Example:
            >>> batches.along("client", [7, 9], round=3)
        """
        for digest in self._digests(coordinate, values, others):
            yield self._begin(digest)

    def keys(self, coordinate: str, values: Iterable[int], **others: int) -> NDArray[np.uint64]:
        """Give the keys of Philox of the streams that :meth:`along` goes along, ``[streams, 2]``."""
        return np.frombuffer(b"".join(self._digests(coordinate, values, others)), "<u8").reshape(-1, 2)

    def _digests(self, coordinate: str, values: Iterable[int], others: Mapping[str, int]) -> Iterator[bytes]:
        before, after = _text(self._seed, self._name, {**others, coordinate: _MARK}).split(f"={_MARK}")
        for value in values:
            yield _hash(f"{before}={int(value)}{after}")

    def _begin(self, digest: bytes) -> np.random.Generator:
        self._start["state"]["key"] = np.frombuffer(digest, "<u8")
        self._bits.state = self._start
        return self._rng


def torch_stream(seed: int, name: str, *, device: str | torch.device = "cpu", **coordinates: int) -> torch.Generator:
    """Give a torch generator of its own for one named choice."""
    import torch

    return torch.Generator(device=device).manual_seed(key(seed, name, **coordinates))
