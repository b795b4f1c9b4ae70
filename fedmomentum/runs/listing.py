"""Many runs at a glance: what each is, how far it came, what it gave and what it takes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fedmomentum.errors import UserError
from fedmomentum.runs.folder import METRICS
from fedmomentum.runs.process import at_work
from fedmomentum.runs.read import Run, list_runs
from fedmomentum.runs.settings import arms_of, flat, merge

RATED = ("accuracy", "loss", "train_loss", "relative_error")
"""What a run is told by: the first of these that it measured."""
SILENT = 60.0
"""Seconds without a sign of life after which a run whose process is not here is no longer called running."""


@dataclass(frozen=True)
class ArmScore:
    """Last and best value of an arm; None where none was measured, NaN where it diverged."""

    final: float | None
    best: float | None


@dataclass(frozen=True)
class Entry:
    """One run in a list.

    Attributes:
        path: the run folder.
        name: of the scenario.
        started: when, in ISO 8601; empty where unknown.
        status: what became of it; ``running?`` where it says so but its process is not on this machine and has given
            no sign of life for a minute, ``unreadable`` where a file is damaged.
        rounds_done: of all arms together.
        rounds: asked for, of all arms together.
        metric: that the scores are of; empty where nothing was measured.
        arms: scores by name; a run without arms has one, ``""``.
        seconds: from start to end, or until now.
        bytes: of all its files.
        problem: what is damaged.
    """

    path: Path
    name: str
    started: str = ""
    status: str = "unreadable"
    rounds_done: int = 0
    rounds: int = 0
    metric: str = ""
    arms: dict[str, ArmScore] = field(default_factory=dict)
    seconds: float | None = None
    bytes: int = 0
    problem: str = ""

    @property
    def leader(self) -> tuple[str, ArmScore] | None:
        """The arm with the best last value, if any has one."""
        scored = {name: arm for name, arm in self.arms.items() if arm.final is not None}
        return max(scored.items(), key=lambda item: _height(item[1].final, self.metric)) if scored else None

    def as_dict(self) -> dict[str, object]:
        """Give the entry as plain data."""
        return asdict(self) | {"path": str(self.path)}


def overview(out: str | os.PathLike[str] = "runs", *, sort: str = "time", filters: Sequence[str] = ()) -> list[Entry]:
    """List the runs below a folder, also those that are running, and those that are damaged.

    Args:
        out: folder of all runs, or of one scenario's.
        sort: ``time`` (latest first), ``accuracy`` (highest last value first) or ``name``.
        filters: ``key=value``, all of which must hold: ``name``, ``status``, ``arm``, or the dotted path of a setting
            that some arm has (``strategy.name=fedavgm``, ``seed=1``); ``*`` in a value stands for anything.

    Raises:
        UserError: a filter is none, or asks for what no run has.
    """
    tests = [_parse(text) for text in filters]
    runs = list_runs(out)
    if tests:
        runs = _matching(runs, tests)
    return sorted(map(entry, runs), key=SORTS[sort])


def entry(run: Run) -> Entry:
    """Sum up one run."""
    size = disk_usage(run.path)
    try:
        status = run.status
    except UserError as error:
        return Entry(run.path, run.path.parent.name, bytes=size, problem=str(error))
    known = status.get("status")
    kind, problem, arms = str(known or "unreadable"), "", {}
    parts: Mapping[str, Run] = run.arms or {"": run}
    done = asked = 0
    updated = str(status.get("updated", ""))
    metric = _metric(parts.values())
    for name, arm in parts.items():
        try:
            arms[name] = score([row[metric] for row in arm.metrics if metric in row], metric)
            last = int(arm.metrics[-1]["round"]) if arm.metrics else 0
            done += max(last, int(arm.status.get("rounds_done", 0)))
            asked += int(arm.status.get("rounds", 0))
            updated = max(updated, str(arm.status.get("updated", "")))
        except UserError as error:
            arms[name], problem = ArmScore(None, None), problem or str(error)
        except (ValueError, KeyError, TypeError):
            arms[name] = ArmScore(None, None)
            problem = problem or f"{arm.path / METRICS}: a row has no round, or an accuracy that is no number"
    if kind != "finished":
        try:
            asked = planned(run.scenario) or asked
        except UserError as error:
            problem = problem or str(error)
    if kind == "running" and _since(updated) > SILENT and not at_work(status):
        kind = "running?"
    ended = status.get("ended") or (None if kind == "running" else updated)
    seconds = _since(str(status.get("started", "")), ended)
    took = seconds if math.isfinite(seconds) else None
    return Entry(
        run.path, run.name, str(status.get("started", "")), kind, done, asked, metric, arms, took, size, problem
    )


def score(values: Sequence[float], metric: str = RATED[0]) -> ArmScore:
    """Give the last of the measured values and the best finite one."""
    finite = [value for value in values if math.isfinite(value)]
    better: Callable[..., float | None] = max if metric == RATED[0] else min
    return ArmScore(values[-1] if values else None, better(finite, default=None))


def _metric(arms: Iterable[Run]) -> str:
    measured: set[str] = set()
    for arm in arms:
        with suppress(UserError):  # told where its rows are read
            measured |= {metric for row in arm.metrics for metric in RATED if metric in row}
    return next((metric for metric in RATED if metric in measured), "")


def planned(scenario: Mapping[str, Any]) -> int:
    """Give the rounds of all arms and seeds that a resolved scenario asks for."""
    own: Mapping[str, Any] = scenario.get("arms") or {"": {}}
    seeds = (scenario.get("sweep") or {}).get("seeds") or 1
    return sum(int(merge(scenario, changes or {}).get("rounds") or 0) for changes in own.values()) * int(seeds)


def disk_usage(folder: str | os.PathLike[str]) -> int:
    """Give the bytes in the files below a folder; what vanishes meanwhile does not count, links are not followed."""
    total = 0
    try:
        with os.scandir(folder) as found:
            for item in found:
                if item.is_dir(follow_symlinks=False):
                    total += disk_usage(item.path)
                elif item.is_file(follow_symlinks=False):
                    total += item.stat(follow_symlinks=False).st_size
    except OSError:
        pass
    return total


def _height(value: float | None, metric: str) -> float:
    """Give a value such that the better one is the higher one."""
    if value is None or not math.isfinite(value):
        return -math.inf
    return value if metric == RATED[0] else -value


def _by_accuracy(entry: Entry) -> float:
    if entry.leader is None or entry.metric != RATED[0]:
        return math.inf
    return -_height(entry.leader[1].final, entry.metric)


SORTS: dict[str, Callable[[Entry], Any]] = {
    "time": lambda entry: 0,  # as list_runs gives them
    "accuracy": _by_accuracy,
    "name": lambda entry: entry.name.casefold(),
}
"""How a list can be sorted; what is equal stays in order of time, latest first."""


def _since(iso: str, until: str | None = None) -> float:
    """Give the seconds between two times, or until now; NaN where a text is no time."""
    try:
        then = datetime.fromisoformat(iso)
        now = datetime.now(UTC) if until is None else datetime.fromisoformat(str(until))
        return (now - then).total_seconds()
    except (ValueError, TypeError):
        return math.nan


def _parse(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not key.strip() or not sign:
        raise UserError(f"--filter {text}: expected key=value, as in status=finished or strategy.name=fedavgm")
    return key.strip(), value.strip()


def _matching(runs: Iterable[Run], tests: Sequence[tuple[str, str]]) -> list[Run]:
    known: set[str] = set()
    kept, readable = [], 0
    for run in runs:
        try:
            facts = _facts(run, {key for key, _ in tests})
        except UserError:
            continue
        readable += 1
        known |= {key for one in facts for key in one}
        if any(all(key in one and _alike(one[key], wanted) for key, wanted in tests) for one in facts):
            kept.append(run)
    for key, _ in tests:
        if readable and key not in known:
            raise UserError(f"--filter {key}=...: no run has this; use name, status, arm or the path of a setting")
    return kept


def _facts(run: Run, keys: set[str]) -> list[dict[str, Any]]:
    """Give, for each arm, what filters can ask for; the scenario is read only where one of the keys needs it."""
    about = {"name": run.name, "status": str(run.status.get("status", ""))}
    if keys <= {*about, "arm"}:
        return [about | {"arm": name} for name in run.arms or [""]]
    return [
        about | {"arm": arm.name, "seed": arm.seed} | dict(flat(arm.settings)) for arm in arms_of(run)
    ]  # fmt: skip


def _alike(value: object, wanted: str) -> bool:
    if isinstance(value, bool) or value is None:
        return wanted.casefold() == {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int | float):
        try:
            return float(wanted) == value
        except ValueError:
            return False
    return fnmatchcase(str(value), wanted)
