"""Checkpoints: all that the next round depends on, in a folder that is there in full or not at all.

```
checkpoints/round-000010/
    state.json          structure, numbers, and the checksum of the tensors
    tensors.safetensors every tensor, numbered
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
    from safetensors.torch import save_file

    parent = run / CHECKPOINTS
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = {}
    structure = _encode(state, tensors, "state")
    place, temporary = parent / f"round-{round:06d}", parent / f".tmp-{secrets.token_hex(4)}"
    with writing(place):
        try:
            temporary.mkdir()
            save_file(tensors, temporary / TENSORS)
            checksum = hashlib.sha256((temporary / TENSORS).read_bytes()).hexdigest()
            record = {"format": FORMAT, "round": round, "tensors_sha256": checksum, "state": structure}
            text = json.dumps(record | {"state_sha256": _digest(structure)})
            (temporary / STATE).write_text(text, encoding="utf-8")
            for path in (temporary / TENSORS, temporary / STATE, temporary):
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
        data = (place / TENSORS).read_bytes()
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{place}: not a whole checkpoint ({error})") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"{place}: a checkpoint of another version of fedmomentum; this one reads format {FORMAT}")
    if record.get("state_sha256") != _digest(record.get("state")):
        raise UserError(f"{place}: {STATE} is damaged (it does not have the checksum that it names)")
    if record.get("tensors_sha256") != hashlib.sha256(data).hexdigest():
        raise UserError(f"{place}: {TENSORS} is damaged (its checksum is not the one in {STATE})")
    try:
        tensors = load_file(place / TENSORS)
    except SafetensorError as error:
        raise UserError(f"{place}: {TENSORS} is damaged: {error}") from error
    state = _decode(record["state"], tensors)
    assert isinstance(state, dict)
    return state


def _digest(structure: Any) -> str:
    return hashlib.sha256(json.dumps(structure, sort_keys=True).encode()).hexdigest()


def _encode(value: Any, tensors: dict[str, Any], path: str) -> Any:
    """Give a value as JSON, its tensors put aside under numbers."""
    if value is None or isinstance(value, str | bool | int | float):
        return {"float": value.hex()} if isinstance(value, float) else value
    if hasattr(value, "detach"):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
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
