"""Checkpoints: all that the next round depends on, in a folder that is there in full or not at all.

```
checkpoints/round-000010/
    state.json          structure, numbers, and the checksum of the tensors
    tensors.safetensors every tensor, numbered; from ``SHARD`` bytes on the next ones go to tensors-1.safetensors, ...
```
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmomentum.errors import UserError
from fedmomentum.runs.atomic import sync, writing

CHECKPOINTS, STATE, TENSORS = "checkpoints", "state.json", "tensors.safetensors"
SHARD = 1 << 30
"""Bytes of tensors that are gathered before they are written: what clients kept can be larger than the memory."""
FORMAT = 1
"""Raised when a checkpoint of an older version can no longer be read."""

_NAME = re.compile(r"round-(\d{6,})")


def save_checkpoint(run: Path, round: int, state: Mapping[str, Any], *, keep: int = 2) -> Path:
    """Write a checkpoint of a finished round and remove all but the newest ``keep``; give its folder.

    Written under a temporary name, forced to disk, and renamed: a process killed at any moment leaves the last
    checkpoint or the new one, and at most a temporary folder that the next save removes.

    Args:
        run: the run folder (or that of an arm).
        round: the round that is done.
        state: nested mappings and lists of tensors, numbers, strings, booleans and None; keys are strings or integers.
        keep: checkpoints that stay, at least 1.

    Raises:
        TypeError: the state holds something that cannot be written, so nothing is.
        NotWrittenError: the disk is full or may not be written to; the last checkpoint stays.
    """
    parent = run / CHECKPOINTS
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
    place, temporary = parent / f"round-{round:06d}", parent / f".tmp-{secrets.token_hex(4)}"
    with writing(place):
        try:
            temporary.mkdir()
            tensors = _Shards(temporary)
            structure = _encode(state, tensors, "state")
            checksum, *more = tensors.close()
            record = {"format": FORMAT, "round": round, "tensors_sha256": checksum, "state": structure}
            if more:
                record["more_tensors_sha256"] = more
            text = json.dumps(record | {"state_sha256": _digest(structure)})
            (temporary / STATE).write_text(text, encoding="utf-8")
            for path in (temporary / STATE, temporary):
                sync(path)
            if place.exists():  # a round that is done again after a resume
                shutil.rmtree(place)
            temporary.rename(place)
            sync(parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    for _, old in _found(run)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    for left in parent.glob(".tmp-*"):
        shutil.rmtree(left, ignore_errors=True)
    return place


def latest_checkpoint(run: Path) -> tuple[int, dict[str, Any]] | None:
    """Give the round and the state of the newest whole checkpoint of a run, or None where there is none.

    Raises:
        UserError: there are checkpoints, and none of them is whole or of this version.
    """
    reasons = []
    for round, place in _found(run):
        try:
            return round, _read(place)
        except UserError as error:
            reasons.append(str(error))
    if reasons:
        raise UserError("; ".join(reasons))
    return None


def _found(run: Path) -> list[tuple[int, Path]]:
    """Give the checkpoints of a run, newest first."""
    parent = run / CHECKPOINTS
    if not parent.is_dir():
        return []
    named = [(match, path) for path in parent.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(((int(match[1]), path) for match, path in named), reverse=True)


def _read(place: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        record = json.loads((place / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{place}: not a whole checkpoint ({error})") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"{place}: a checkpoint of another version of fedmomentum; this one reads format {FORMAT}")
    if record.get("state_sha256") != _digest(record.get("state")):
        raise UserError(f"{place}: {STATE} is damaged (it does not have the checksum that it names)")
    tensors: dict[str, Any] = {}
    more = record.get("more_tensors_sha256", [])
    for number, wanted in enumerate([record.get("tensors_sha256"), *(more if isinstance(more, list) else [None])]):
        file = place / _shard(number)
        try:
            found = _checksum(file)
        except OSError as error:
            raise UserError(f"{place}: not a whole checkpoint ({error})") from error
        if found != wanted:
            raise UserError(f"{place}: {file.name} is damaged (its checksum is not the one in {STATE})")
        try:
            tensors |= load_file(file)  # mapped into memory: pages come when they are read, and can go again
        except SafetensorError as error:
            raise UserError(f"{place}: {file.name} is damaged: {error}") from error
    try:
        state = _decode(record["state"], tensors)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{place}: {STATE} is damaged ({type(error).__name__}: {error})") from error
    if not isinstance(state, dict):
        raise UserError(f"{place}: {STATE} is damaged (it holds no state)")
    return state


class _Shards:
    """Writes tensors to files as they come, so that no more than a shard of them is in memory at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count, self._bytes = folder, 0, 0
        self._waiting: dict[str, Any] = {}
        self._storages: set[int] = set()
        self._checksums: list[str] = []

    def add(self, tensor: Any) -> str:
        """Take a tensor and give the name under which it is kept."""
        own = tensor.detach().cpu().contiguous()
        storage = own.untyped_storage()
        if storage.nbytes() != own.numel() * own.element_size() or storage.data_ptr() in self._storages:
            own = own.clone()  # the format knows no views, and no two names for one memory
        self._storages.add(own.untyped_storage().data_ptr())
        name, self._count = f"t{self._count}", self._count + 1
        self._waiting[name] = own
        self._bytes += own.numel() * own.element_size()
        if self._bytes >= SHARD:
            self._write()
        return name

    def close(self) -> list[str]:
        """Write what is left; give the checksums of all shards, at least one."""
        if self._waiting or not self._checksums:
            self._write()
        return self._checksums

    def _write(self) -> None:
        from safetensors.torch import save_file

        file = self._folder / _shard(len(self._checksums))
        save_file(self._waiting, file)
        sync(file)
        self._checksums.append(_checksum(file))
        self._waiting, self._storages, self._bytes = {}, set(), 0


def _shard(number: int) -> str:
    return TENSORS if number == 0 else TENSORS.replace(".", f"-{number}.")


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(structure: Any) -> str:
    return hashlib.sha256(json.dumps(structure, sort_keys=True).encode()).hexdigest()


def _encode(value: Any, tensors: _Shards, path: str) -> Any:
    """Give a value as JSON, its tensors put aside under numbers."""
    if value is None or isinstance(value, str | bool | int | float):
        return {"float": value.hex()} if isinstance(value, float) else value
    if hasattr(value, "detach"):
        return {"tensor": tensors.add(value)}
    if isinstance(value, Mapping):
        bad = [key for key in value if not isinstance(key, str | int) or isinstance(key, bool)]
        if bad:
            raise TypeError(f"{path}: key {bad[0]!r} is neither a string nor an integer")
        return {"map": [[key, _encode(item, tensors, f"{path}[{key!r}]")] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_encode(item, tensors, f"{path}[{i}]") for i, item in enumerate(value)]}
    raise TypeError(f"{path}: a {type(value).__name__} cannot be written to a checkpoint")


def _decode(value: Any, tensors: Mapping[str, Any]) -> Any:
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float.fromhex(value["float"])
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "list" in value:
        return [_decode(item, tensors) for item in value["list"]]
    return {key: _decode(item, tensors) for key, item in value["map"]}
