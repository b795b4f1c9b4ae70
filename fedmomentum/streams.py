"""Random streams by name, not by counter.

Every random choice asks for its own stream, ``stream(seed, "batches", round=3, client=7)``, so a result never depends
on how many other choices were made before it, on which worker made them, or on whether a run was resumed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _digest(seed: int, name: str, coordinates: dict[str, int]) -> bytes:
    text = f"{seed}/{name}" + "".join(f"/{k}={int(v)}" for k, v in sorted(coordinates.items()))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def key(seed: int, name: str, **coordinates: int) -> int:
    """Give the 63-bit number that names a stream; equal arguments give equal numbers on every machine."""
    return int.from_bytes(_digest(seed, name, coordinates)[:8], "little") >> 1


def stream(seed: int, name: str, **coordinates: int) -> np.random.Generator:
    """Give a numpy generator (Philox) of its own for one named choice.

    Example:
        >>> rng = stream(0, "batches", round=3, client=7)
    """
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(seed, name, coordinates), "little")))


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
        self._start["state"]["key"] = np.frombuffer(_digest(self._seed, self._name, coordinates), "<u8")
        self._bits.state = self._start
        return self._rng


def torch_stream(seed: int, name: str, *, device: str | torch.device = "cpu", **coordinates: int) -> torch.Generator:
    """Give a torch generator of its own for one named choice."""
    import torch

    return torch.Generator(device=device).manual_seed(key(seed, name, **coordinates))
