"""What a client keeps between rounds: in Flower's context of its node, or on the node's disk.

A client trains before anybody knows whether its reply will count: it may come too late, be refused, or be for a server
that dies. So what it kept before stays beside what it keeps from now on, each under the number of its round, and the
next message says which of them counts (``Terms.used``).

Flower keeps a context in the memory of the SuperNode, and gives a run that goes on a new one. With ``state`` in the
node config it is a file a round in its place, which outlives the SuperNode:

```
<state>/<name>/<time-hash>/<arm>/client-<number>/round-000012.safetensors
```
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from flwr.app import RecordDict
from safetensors.torch import load_file, save_file

from fedmomentum.clients.app import MEMORY, recall, remember
from fedmomentum.deployment.terms import Terms
from fedmomentum.errors import UserError
from fedmomentum.runs.folder import slug
from fedmomentum.trees import State

_FILE = re.compile(r"round-(\d{6,})\.safetensors")


class Memory(Protocol):
    """What one client of one arm of a run kept after each of some rounds."""

    rounds: int
    """How many of them stay."""

    def held(self) -> Iterable[int]:
        """Give the rounds that there are."""

    def read(self, server_round: int) -> State:
        """Give what was kept after a round."""

    def write(self, server_round: int, kept: State) -> None:
        """Keep something after a round."""

    def drop(self, server_round: int) -> None:
        """Forget what was kept after a round."""


def after(memory: Memory, used: int) -> State:
    """Give what a client kept after the last round that counted, and forget what it kept after later ones.

    Raises:
        UserError: a file cannot be read.
    """
    held = set(memory.held())
    for server_round in held:
        if server_round > used:
            memory.drop(server_round)
    counted = [server_round for server_round in held if server_round <= used]
    return memory.read(max(counted)) if counted else {}


def keep(memory: Memory, server_round: int, kept: State) -> None:
    """Keep something after a round, beside what was kept before; nothing where there is nothing.

    Raises:
        UserError: a file cannot be written.
    """
    if not kept:
        return
    memory.write(server_round, kept)
    for old in sorted(memory.held())[: -memory.rounds]:
        memory.drop(old)


class ContextMemory:
    """In the records of a context.

    Args:
        state: of the context; is changed.
        terms: name the arm.
    """

    rounds = 2

    def __init__(self, state: RecordDict, terms: Terms) -> None:
        """Look nowhere yet."""
        self._state, self._drawer = state, f"{MEMORY}{terms.arm}/"

    def held(self) -> Iterable[int]:
        """Give the rounds that there are."""
        keys = [key for key in self._state.array_records if key.startswith(self._drawer)]
        return {int(key.removeprefix(self._drawer).partition("/")[0]) for key in keys}

    def read(self, server_round: int) -> State:
        """Give what was kept after a round."""
        return recall(self._state, self._at(server_round))

    def write(self, server_round: int, kept: State) -> None:
        """Keep something after a round."""
        remember(self._state, self._at(server_round), kept)

    def drop(self, server_round: int) -> None:
        """Forget what was kept after a round."""
        remember(self._state, self._at(server_round), {})

    def _at(self, server_round: int) -> str:
        return f"{self._drawer}{server_round}/"


class DiskMemory:
    """In files.

    Args:
        place: the folder of the node's ``state``.
        terms: name the run, the arm and the client.
    """

    rounds = 4
    """A server that goes on from its last checkpoint asks for the rounds after it again."""

    def __init__(self, place: str, terms: Terms) -> None:
        """Look nowhere yet."""
        parts = [slug(part) for part in (*terms.run.split("/"), terms.arm or "run")]
        self.folder = Path(place).expanduser().joinpath(*parts, f"client-{terms.client}")

    def held(self) -> Iterable[int]:
        """Give the rounds that there are."""
        if not self.folder.is_dir():
            return set()
        return {int(match[1]) for path in self.folder.iterdir() if (match := _FILE.fullmatch(path.name))}

    def read(self, server_round: int) -> State:
        """Give what was kept after a round.

        Raises:
            UserError: the file cannot be read.
        """
        path = self._path(server_round)
        try:
            tensors = load_file(path)
        except Exception as error:  # safetensors has errors of its own, and a disk has many
            raise UserError(f"{path}: what this client kept cannot be read: {error}") from error
        kept: State = {}
        for key, tensor in tensors.items():
            slot, _, name = key.partition("/")
            kept.setdefault(slot, {})[name] = tensor
        return kept

    def write(self, server_round: int, kept: State) -> None:
        """Keep something after a round.

        Raises:
            UserError: the file cannot be written.
        """
        path = self._path(server_round)
        tensors = {
            f"{slot}/{name}": tensor.detach().to("cpu", memory_format=torch.contiguous_format).clone()
            for slot, tree in kept.items()
            for name, tensor in tree.items()
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            save_file(tensors, temporary)
            temporary.replace(path)
        except OSError as error:
            raise UserError(f"{path}: what this client keeps cannot be written: {error.strerror}") from error

    def drop(self, server_round: int) -> None:
        """Forget what was kept after a round.

        Raises:
            UserError: the file cannot be removed.
        """
        path = self._path(server_round)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{path}: what this client kept cannot be removed: {error.strerror}") from error

    def _path(self, server_round: int) -> Path:
        return self.folder / f"round-{server_round:06d}.safetensors"
