"""What clients keep between rounds: in memory up to a limit, in a scratch file beyond it, the same bits either way."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TypeAlias

import torch
from torch import Tensor

from fedmomentum.runs.atomic import writing
from fedmomentum.trees import State

Layout: TypeAlias = tuple[tuple[str, str, torch.dtype, tuple[int, ...]], ...]
"""Slot, name, dtype and shape of every tensor of a state, in the order of their bytes."""
Place: TypeAlias = tuple[int, Layout]
"""Where a state begins in the scratch file, and its layout."""


class Kept(Mapping[int, State]):
    """States by client: those in memory, and those in a scratch file, which are read when they are asked for."""

    def __init__(self, near: dict[int, State], far: dict[int, Place], scratch: _Scratch) -> None:
        """Join both."""
        self._near, self._far, self._scratch = near, far, scratch

    def __getitem__(self, client: int) -> State:
        """Give what a client kept."""
        return self._near[client] if client in self._near else self._scratch.read(self._far[client])

    def __contains__(self, client: object) -> bool:
        """Say whether a client kept something, without reading it."""
        return client in self._near or client in self._far

    def __iter__(self) -> Iterator[int]:
        """Give the clients that kept something, by number."""
        return iter(sorted([*self._near, *self._far]))

    def __len__(self) -> int:
        """Give how many clients kept something."""
        return len(self._near) + len(self._far)


class ClientMemory(Kept):
    """States by client, of which those written last stay in memory. A state is never changed, only replaced.

    Args:
        limit: bytes of tensors that stay in memory; None keeps all of them there.
        folder: of the scratch file, which is made when it is needed; None takes the system's folder for such files.
    """

    def __init__(self, limit: int | None = None, folder: Path | None = None) -> None:
        """Begin with nothing."""
        super().__init__({}, {}, _Scratch(folder))  # a dict remembers the order in which states came
        self.limit, self.folder, self.held = limit, folder, 0
        self._snapshots: list[weakref.ref[Kept]] = []

    @property
    def spilled(self) -> int:
        """Clients whose state is in the scratch file."""
        return len(self._far)

    def update(self, states: Mapping[int, State]) -> None:
        """Keep states in place of what these clients kept before.

        Raises:
            NotWrittenError: the disk is full, or the scratch file may not be written to.
        """
        self._snapshots = [reference for reference in self._snapshots if reference() is not None]
        busy = bool(self._snapshots)
        for client in states:
            state = states[client]
            if (old := self._near.pop(client, None)) is not None:
                self.held -= _size(old)
            elif (place := self._far.pop(client, None)) is not None:
                self._scratch.free(place, later=busy)
            self._near[client] = state
            self.held += _size(state)
            while self.limit is not None and self.held > self.limit:
                oldest = next(iter(self._near))
                self._far[oldest] = self._scratch.write(self._near[oldest])
                self.held -= _size(self._near.pop(oldest))
        if not busy:
            self._scratch.reuse()

    def snapshot(self) -> Kept:
        """Give what is kept now; it stays as it is, and no place that it needs is used again while it lives."""
        made = Kept(dict(self._near), dict(self._far), self._scratch)
        self._snapshots.append(weakref.ref(made))
        return made


class _Scratch:
    """A file without a name, in which states have places; nothing is left of it when the process ends, however."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._end = 0
        self._free: dict[int, list[int]] = {}
        self._freed_later: list[Place] = []
        self._layouts: dict[Layout, Layout] = {}

    def write(self, state: State) -> Place:
        """Give the place of a state that is written to the file."""
        found = tuple((slot, n, t.dtype, tuple(t.shape)) for slot, tree in state.items() for n, t in tree.items())
        layout = self._layouts.setdefault(found, found)  # all clients of a run have one layout: it is stored once
        length = _length(layout)
        free = self._free.get(length)
        at = free.pop() if free else self._end
        with writing(self._folder or Path(tempfile.gettempdir())):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - it lives as long as this does
            self._file.seek(at)
            for tree in state.values():
                for tensor in tree.values():
                    self._file.write(_bytes(tensor))
            self._file.flush()
        self._end = max(self._end, at + length)
        return at, layout

    def read(self, place: Place) -> State:
        """Give the state at a place, in memory of its own."""
        assert self._file is not None
        at, layout = place
        state: State = {}
        for slot, name, dtype, shape in layout:
            length = torch.Size(shape).numel() * dtype.itemsize
            data = bytearray(os.pread(self._file.fileno(), length, at))
            flat = torch.frombuffer(data, dtype=dtype) if length else torch.empty(0, dtype=dtype)
            state.setdefault(slot, {})[name] = flat.reshape(shape)
            at += length
        return state

    def free(self, place: Place, *, later: bool) -> None:
        """Let a place be used again: at once, or when :meth:`reuse` says so."""
        if later:
            self._freed_later.append(place)
        else:
            self._free.setdefault(_length(place[1]), []).append(place[0])

    def reuse(self) -> None:
        """Let the places be used again that were to be freed later."""
        places, self._freed_later = self._freed_later, []
        for place in places:
            self.free(place, later=False)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _length(layout: Layout) -> int:
    return sum(torch.Size(shape).numel() * dtype.itemsize for _, _, dtype, shape in layout)


def _size(state: State) -> int:
    return sum(t.numel() * t.element_size() for tree in state.values() for t in tree.values())
