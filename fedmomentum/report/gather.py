"""What a report is made of: run folders, read as far as they can be read.

A run may be old, still going on, or torn by a crash, so nothing but ``status.json`` has to be there; what is there and
cannot be read is named in ``Source.notes`` and passed over.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from fedmomentum.errors import UserError
from fedmomentum.report.curves import without_seed
from fedmomentum.report.growing import Growing
from fedmomentum.report.numbers import real
from fedmomentum.runs import Row, Run
from fedmomentum.runs.atomic import read_json
from fedmomentum.runs.findings import FINDINGS, Finding, read_findings
from fedmomentum.runs.folder import CLIENTS, FAILURES, METRICS, PARTITION, PROVENANCE, RESOLVED, SCENARIO, STATUSES
from fedmomentum.runs.profile import PROFILE

Columns: TypeAlias = "dict[str, array[float]]"


@dataclass(frozen=True)
class Arm:
    """One arm of a run, with a label that tells it apart from all others of the report."""

    label: str
    name: str
    status: dict[str, Any]
    rows: list[Row]
    clients: Columns
    """Equal-length columns of ``clients.jsonl``, NaN where a row has no number."""
    failures: list[Row]
    profile: dict[str, Any] = field(default_factory=dict)
    """Where the time went, of a run with ``--profile``."""

    @property
    def group(self) -> str:
        """The label without the seed."""
        return without_seed(self.label) or self.label

    @property
    def facts(self) -> dict[str, Any]:
        """What the engine chose and found."""
        return mapping(self.status.get("facts"))


@dataclass(frozen=True)
class Source:
    """One run folder."""

    label: str
    path: Path
    status: dict[str, Any]
    scenario: dict[str, Any]
    text: str
    resolved: str
    provenance: dict[str, Any]
    partitions: list[dict[str, Any]]
    arms: list[Arm]
    notes: list[str] = field(default_factory=list)
    findings: list[tuple[str, Finding]] = field(default_factory=list)
    """Predictions beside measurements, each with the arm that made it."""
    pictures: list[Path] = field(default_factory=list)
    """That the run drew of itself."""

    @property
    def kind(self) -> str:
        """``federated``, ``analogy``, ``optimize`` or ``sample``; runs of before there were kinds are federated."""
        return str(self.scenario.get("kind") or "federated")

    @property
    def name(self) -> str:
        """Name of the scenario."""
        return str(self.status.get("name") or self.path.parent.name)

    @property
    def question(self) -> str:
        """What the scenario asks; its name where it does not say."""
        return str(self.scenario.get("question") or self.name)

    @property
    def state(self) -> str:
        """``running``, ``finished``, ``interrupted``, ``failed`` or ``unknown``."""
        state = self.status.get("status")
        return str(state) if state in STATUSES else "unknown"


def gather(runs: Sequence[Run]) -> list[Source]:
    """Read runs for a report; where there are several, labels of arms begin with the run's.

    Raises:
        UserError: ``status.json`` of a run is no JSON object.
    """
    labels = _labels(runs)
    return [_source(run, label, prefix=len(runs) > 1) for run, label in zip(runs, labels, strict=True)]


def unit_of(source: Source) -> str:
    """Give what the rows of a run count."""
    return "round" if source.kind == "federated" else "step"


def mapping(value: object) -> dict[str, Any]:
    """Give a JSON object as it is, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def _labels(runs: Sequence[Run]) -> list[str]:
    """Name each run by its scenario; those of one name by their folders too; the same folder twice by a number."""
    names = [run.name for run in runs]
    several = Counter(names)
    labels = [
        f"{name} {run.path.resolve().name}" if several[name] > 1 else name
        for name, run in zip(names, runs, strict=True)
    ]
    again = Counter(labels)
    return [f"{label} #{i}" if again[label] > 1 else label for i, label in enumerate(labels, start=1)]


def _source(run: Run, label: str, *, prefix: bool) -> Source:
    notes: list[str] = []

    def tried(what: str, read: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return read()
        except Exception as error:  # whatever is wrong with one file, the others are still worth showing
            notes.append(f"{what} could not be read: {' '.join(str(error).split())}")
        return otherwise

    folders = tried("the table of arms", lambda: dict(run.arms), {}) or {run.arm: run}
    return Source(
        label=label,
        path=run.path,
        status=run.status,
        scenario=mapping(tried(RESOLVED, lambda: run.scenario, {})),
        text=tried(SCENARIO, lambda: run.text, ""),
        resolved=tried(RESOLVED, lambda: _text(run.path / RESOLVED), ""),
        provenance=tried(PROVENANCE, lambda: run.provenance, {}),
        partitions=tried(PARTITION, lambda: _partitions(run.path / PARTITION), []),
        arms=[_arm(arm, name, label, prefix, notes) for name, arm in folders.items()],
        notes=notes,
        findings=[
            (name, finding)
            for name, arm in folders.items()
            for finding in tried(f"{FINDINGS} of {name or label}", partial(read_findings, arm.path), [])
        ],
        pictures=run.pictures,
    )


def _arm(run: Run, name: str, source: str, prefix: bool, notes: list[str]) -> Arm:
    def rows(table: str) -> list[Row]:
        file = Growing(run.path / table)
        found = list(file.read())
        _note_damage(file, notes)
        return found

    try:
        status = run.status
    except UserError as error:
        notes.append(str(error))
        status = {}
    profile: dict[str, Any] = {}
    if (run.path / PROFILE).exists():
        try:
            profile = read_json(run.path / PROFILE)
        except UserError as error:
            notes.append(str(error))
    metrics = [row for row in rows(METRICS) if math.isfinite(real(row.get("round")))]
    label = f"{source}: {name}" if prefix and name else name or source
    return Arm(label, name, status, metrics, _columns(run.path / CLIENTS, notes), rows(FAILURES), profile)


def _columns(path: Path, notes: list[str]) -> Columns:
    """Read rows straight into columns: there can be millions, and a dictionary for each would not fit."""
    file = Growing(path)
    columns: Columns = {}
    for count, row in enumerate(file.read()):
        for key, value in row.items():
            column = columns.get(key)
            if column is None:
                column = columns[key] = array("d", [math.nan]) * count
            column.append(real(value))
        for column in columns.values():
            if len(column) <= count:
                column.append(math.nan)
    _note_damage(file, notes)
    return columns


def _note_damage(file: Growing, notes: list[str]) -> None:
    if file.damaged:
        notes.append(f"{file.path}: {file.damaged} damaged lines are left out")


def _partitions(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    return [record for record in found if isinstance(record, dict)] if isinstance(found, list) else []


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
