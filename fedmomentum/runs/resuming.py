"""What a run needs to go on: whose checkpoint it is, what may change, and one process at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from fedmomentum.errors import UserError
from fedmomentum.runs.folder import PROVENANCE, RunFolder
from fedmomentum.runs.process import at_work, this_process
from fedmomentum.runs.read import Run

FREE = ("rounds", "steps", "animation", "engine", "checkpoint", "question", "expect", "trackers")
"""Settings that may differ when a run goes on: none of them changes the bits of a round (nor does ``evaluate``, but its
rows would no longer be those of one run)."""
PINNED = ("engine.vectorize", "engine.block_size", "engine.threads")
"""Settings of the engine that do."""


def same_science(was: Run, resolved: Mapping[str, Any]) -> None:
    """Refuse to go on with another scenario than the one that was run.

    Raises:
        UserError: names the settings that differ.
    """
    old, new = _flat(was.scenario), _flat(resolved)
    differ = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and not _free(key))
    unknown = [key for key in differ if key not in old]
    if differ and unknown == differ:
        raise UserError(
            f"{was.path}: written by another version of fedmomentum, which did not have {_some(unknown)}; what it did "
            f"instead is not known here. Go on with that version ({PROVENANCE} names it), or start a new run."
        )
    if differ:
        key = differ[0]
        more = f", and {len(differ) - 1} more" if len(differ) > 1 else ""
        raise UserError(
            f"{was.path}: a checkpoint of another scenario: {key} was {old.get(key)!r}, now {new.get(key)!r}{more}. "
            "Going on, only rounds, engine (without vectorize, block_size and threads) and checkpoint may change."
        )


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more settings"


def not_shortened(was: Run, rounds: Mapping[str, int]) -> None:
    """Refuse to go on to fewer rounds than were done: what was run would no longer be what the folder says.

    Args:
        was: the run.
        rounds: asked for, by arm.

    Raises:
        UserError: names the arm and how far it came.
    """
    for name, asked in rounds.items():
        arm = was.arms.get(name) if name else was
        done = int(arm.status.get("rounds_done", 0)) if arm is not None else 0
        if done > asked:
            which = f" of arm '{name}'" if name else ""
            raise UserError(
                f"{was.path}: rounds: {done}{which} are done, so going on to {asked} is not possible; give at least "
                f"{done}, or start a new run"
            )


def _free(key: str) -> bool:
    plain = key.split(".arms.", 1)[-1]
    parts = plain.split(".")
    if parts[0] == "arms" and len(parts) > 2:
        parts = parts[2:]
    plain = ".".join(parts)
    return plain.split(".")[0].split("[")[0] in FREE and plain not in PINNED


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {
            k: v for key, item in value.items() for k, v in _flat(item, f"{path}.{key}" if path else str(key)).items()
        }
    if isinstance(value, list | tuple):
        inside = [_flat(item, f"{path}[{i}]") for i, item in enumerate(value)]
        return {key: item for part in inside for key, item in part.items()} or {path: []}
    return {path: value}


def claim(folder: RunFolder, checksums: Mapping[str, str], resolved: Mapping[str, Any]) -> None:
    """Take a run folder to go on with it.

    Raises:
        UserError: another process is at it, or the data are not those that the run began with.
    """
    status = folder.status()
    if status.get("status") == "running" and status.get("pid") != os.getpid() and at_work(status):
        raise UserError(f"{folder.path}: process {status['pid']} is running it; wait for it to end, or stop it first")
    known = Run(folder.path).provenance.get("data") or {}
    if not isinstance(known, dict) or not all(isinstance(checksum, str) for checksum in known.values()):
        raise UserError(f"{folder.path / PROVENANCE}: data is not what it was written as: names and their checksums")
    for name, checksum in checksums.items():
        if name in known and known[name] != checksum:
            raise UserError(
                f"{folder.path}: data '{name}' is not what the run began with (its checksum was {known[name][:12]}, "
                f"it is {checksum[:12]}). Give it the same data, or start a new run."
            )
    for left in folder.path.rglob(".*.tmp"):  # what a killed process was writing
        with suppress(OSError):
            left.unlink()
    folder.write_resolved(resolved)
    folder.set_status("running", **this_process(), resumed=int(status.get("resumed", 0)) + 1)


def release(folder: RunFolder) -> None:
    """Say that no process is at a run folder any more."""
    if folder.status().get("status") == "running":
        folder.set_status("failed")
