"""What a client keeps between rounds, on its node's disk: it outlives the SuperNode, and a run that goes on finds it.

Flower keeps the context of a node in the memory of the SuperNode, and gives a run that goes on a new one. With
``state`` in the node config the records of a client are also files, one a round:

```
<state>/<name>/<time-hash>/<arm>/client-<number>/round-000012.safetensors
```
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from safetensors.numpy import load_file, save_file

from fedmomentum.deployment.terms import Terms
from fedmomentum.errors import UserError
from fedmomentum.runs.folder import slug

ROUNDS = 4
"""Rounds that are kept: a server that goes on from its last checkpoint asks for the round after it again."""

_FILE = re.compile(r"round-(\d{6,})\.safetensors")


class Memory:
    """The memory of one client of one arm of a run.

    Args:
        place: the folder of the node's ``state``.
        terms: name the run, the arm and the client.
        drawer: prefix of the client's records in a context.
    """

    def __init__(self, place: str, terms: Terms, drawer: str) -> None:
        """Look nowhere yet."""
        parts = [slug(part) for part in (*terms.run.split("/"), terms.arm or "run")]
        self.folder = Path(place).expanduser().joinpath(*parts, f"client-{terms.client}")
        self.drawer = drawer

    def recall(self, state: RecordDict, server_round: int) -> None:
        """Put what was kept before a round into a context; where nothing was, leave the context as it is.

        Raises:
            UserError: a file cannot be read.
        """
        before = [number for number in self._rounds() if number < server_round]
        if not before:
            return
        for key in [key for key in state.array_records if key.startswith(self.drawer)]:
            del state[key]
        path = self._path(max(before))
        try:
            tensors = load_file(path)
        except Exception as error:  # safetensors has errors of its own, and a disk has many
            raise UserError(f"{path}: what this client kept cannot be read: {error}") from error
        records: dict[str, dict[str, np.ndarray]] = {}
        for key, numbers in tensors.items():
            slot, _, name = key.partition("/")
            records.setdefault(slot, {})[name] = numbers
        for slot, arrays in records.items():
            state[self.drawer + slot] = ArrayRecord({name: Array(numbers) for name, numbers in arrays.items()})

    def keep(self, state: RecordDict, server_round: int) -> None:
        """Write down what a context holds after a round; nothing where it holds nothing.

        Raises:
            UserError: the file cannot be written.
        """
        tensors = {
            f"{key.removeprefix(self.drawer)}/{name}": array.numpy()
            for key, record in state.array_records.items()
            if key.startswith(self.drawer)
            for name, array in record.items()
        }
        if not tensors:
            return
        path = self._path(server_round)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            save_file(tensors, temporary)
            temporary.replace(path)
            for number in sorted(self._rounds())[:-ROUNDS]:
                self._path(number).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{path}: what this client keeps cannot be written: {error.strerror}") from error

    def _rounds(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return [int(match[1]) for path in self.folder.iterdir() if (match := _FILE.fullmatch(path.name))]

    def _path(self, server_round: int) -> Path:
        return self.folder / f"round-{server_round:06d}.safetensors"
