"""What the files of a run folder hold where nobody has touched them: people edit, and disks and copies tear.

Whoever reads a run can rely on these shapes; what does not have them is told with its file, what is there, and what was
expected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fedmomentum.errors import UserError
from fedmomentum.runs.atomic import Row, read_json

_WORDS = frozenset({"name", "hash", "status", "arm", "kind", "message", "started", "updated", "ended"})
_COUNTS = frozenset({"rounds", "rounds_done", "resumed", "points", "points_done"})
_MEASURED = frozenset(
    {"accuracy", "elapsed", "simulated_time", "replies", "failures", "cohort", "client", "num-examples"}
)


def read_status(path: Path) -> dict[str, Any]:
    """Read ``status.json``; a file that is not there gives an empty status.

    Raises:
        UserError: it cannot be read, or a fact in it is not of the kind that it has to be.
    """
    status = read_json(path)
    for key, value in status.items():
        wanted = _status_fault(key, value)
        if wanted:
            raise UserError(f"{path}: {key} is {_shown(value)}, expected {wanted}")
    return status


def _status_fault(key: str, value: object) -> str:
    """Say what was expected of a fact; nothing where it is as it should be."""
    if value is None and key == "expectations":
        return ""
    if key in _WORDS:
        return "" if isinstance(value, str) else "text"
    if key in _COUNTS:
        return "" if _is_count(value) else "a whole number of at least 0"
    if key == "arms":
        fine = isinstance(value, dict) and all(map(_is_inside, value.values()))
        return "" if fine else "names of arms and their folders inside this one"
    if key == "facts":
        return "" if isinstance(value, dict) else "a JSON object"
    if key == "expectations":
        fine = isinstance(value, list) and all(isinstance(claim, dict) for claim in value)
        return "" if fine else "a list of claims"
    return ""


def _is_inside(folder: object) -> bool:
    """Say whether this is a path that leads nowhere but into the run folder: a run can come from someone else."""
    if not isinstance(folder, str) or not folder or "\0" in folder:
        return False
    path = PurePosixPath(folder)
    return not path.is_absolute() and ".." not in path.parts


def row_fault(row: Row) -> str:
    """Say what is wrong with a row of ``metrics.jsonl`` or ``clients.jsonl``; nothing where it is as it should be.

    ``round`` is a whole number, and what is a number in every run is one (or null, which reads as NaN).
    """
    fault = round_fault(row)
    if fault:
        return fault
    for key, value in row.items():
        if isinstance(value, list | dict):
            return f"{key} is {_shown(value)}, expected a number"
        if isinstance(value, str) and (
            key in _MEASURED or key.startswith(("seconds", "bytes_")) or key.endswith("loss")
        ):
            return f"{key} is {_shown(value)}, expected a number"
    return ""


def round_fault(row: Row) -> str:
    """Say what is wrong with the ``round`` of a row."""
    if "round" not in row:
        return "has no round"
    if not _is_count(row["round"]):
        return f"round is {_shown(row['round'])}, expected a whole number of at least 0"
    return ""


def failure_fault(row: Row) -> str:
    """Say what is wrong with a row of ``failures.jsonl``: it has a round, a client, a reason and a kind."""
    fault = round_fault(row)
    if fault:
        return fault
    if not isinstance(row.get("client"), int):
        return f"client is {_shown(row.get('client'))}, expected a whole number"
    return next((f"{key} is {_shown(row.get(key))}, expected text" for key in ("reason", "kind")
                 if not isinstance(row.get(key), str)), "")  # fmt: skip


CHECKS: Mapping[str, Callable[[Row], str]] = {
    "metrics.jsonl": row_fault,
    "clients.jsonl": row_fault,
    "failures.jsonl": failure_fault,
}
"""Table -> what is wrong with a row of it."""


def _is_count(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value >= 0 and value == int(value)


def _shown(value: object) -> str:
    words = repr(value)
    return words if len(words) <= 40 else f"{words[:37]}..."
