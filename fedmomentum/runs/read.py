"""Runs as they are read back: tables of plain rows, nothing loaded before it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmomentum.errors import UserError
from fedmomentum.runs.atomic import Row, columns, read_json, read_rows
from fedmomentum.runs.checks import CHECKS, read_status
from fedmomentum.runs.findings import Finding, read_findings
from fedmomentum.runs.folder import CLIENTS, FAILURES, METRICS, MODEL, PLOTS, PROVENANCE, RESOLVED, SCENARIO, STATUS
from fedmomentum.runs.parameters import load_parameters

if TYPE_CHECKING:
    import pandas
    import polars

    from fedmomentum.trees import Tree


@dataclass(frozen=True)
class Run:
    """A run (or one arm of it) as it stands on disk; a run of several arms gives their rows with an ``arm`` key.

    Example:
        >>> run = load_run("runs/quickstart/20260101-120000-1a2b3c4d")  # doctest: +SKIP
        >>> pandas.DataFrame(run.metrics).groupby("arm").accuracy.max()  # doctest: +SKIP
    """

    path: Path
    arm: str = ""

    @cached_property
    def status(self) -> dict[str, Any]:
        """What became of the run: ``status``, ``rounds_done``, ``rounds``, ``started``, ``updated``, ``ended``."""
        return read_status(self.path / STATUS)

    @property
    def name(self) -> str:
        """Name of the scenario."""
        return str(self.status.get("name", self.arm or self.path.parent.name))

    @cached_property
    def arms(self) -> dict[str, Run]:
        """The arms by name, in the scenario's order; empty for a run without arms."""
        return {name: Run(self.path / folder, name) for name, folder in self.status.get("arms", {}).items()}

    @property
    def series(self) -> dict[str, list[Row]]:
        """The metric rows of each arm by its name; of a run without arms, under ``""``."""
        return {name: arm.metrics for name, arm in self.arms.items()} or {"": self.metrics}

    @cached_property
    def metrics(self) -> list[Row]:
        """One row a round."""
        return self._rows(METRICS, lambda arm: arm.metrics)

    @cached_property
    def clients(self) -> list[Row]:
        """One row a client and round."""
        return self._rows(CLIENTS, lambda arm: arm.clients)

    @cached_property
    def failures(self) -> list[Row]:
        """One row a reply that was not used: round, client, reason and kind."""
        return self._rows(FAILURES, lambda arm: arm.failures)

    @property
    def findings(self) -> list[Finding]:
        """Predictions beside what was measured, of an analogy or a sampler; of a run with arms, those of all."""
        return [f for arm in self.arms.values() for f in arm.findings] if self.arms else read_findings(self.path)

    @property
    def table(self) -> dict[str, list[Any]]:
        """The metrics as equal-length columns; NaN where a row lacks a value."""
        return columns(self.metrics)

    @cached_property
    def scenario(self) -> dict[str, Any]:
        """The resolved scenario as plain data (``resolved.yaml``); of an arm, empty."""
        path = self.path / RESOLVED
        return read_yaml(path) if path.exists() else {}

    @cached_property
    def text(self) -> str:
        """The scenario as it was written."""
        path = self.path / SCENARIO
        return read_text(path) if path.exists() else ""

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Versions, machine, command line, checksums of the data."""
        return read_json(self.path / PROVENANCE)

    @property
    def pictures(self) -> list[Path]:
        """The plots, as PNG files."""
        return sorted((self.path / PLOTS).glob("*.png"))

    def parameters(self) -> Tree:
        """Load the trained model as named tensors on the CPU.

        Raises:
            UserError: the run has several arms, or saved no model.
        """
        if self.arms:
            raise UserError(f"{self.path}: the run has a model for each arm: {', '.join(self.arms)}; take one of .arms")
        return load_parameters(self.path / MODEL)

    def to_pandas(self, table: str = "metrics") -> pandas.DataFrame:
        """Give a table (``metrics``, ``clients`` or ``failures``) as a pandas frame (extra ``pandas``)."""
        from fedmomentum.runs.export import to_pandas

        return to_pandas(self, table)

    def to_polars(self, table: str = "metrics") -> polars.DataFrame:
        """Give a table (``metrics``, ``clients`` or ``failures``) as a polars frame (extra ``polars``)."""
        from fedmomentum.runs.export import to_polars

        return to_polars(self, table)

    def _rows(self, table: str, of: Callable[[Run], list[Row]]) -> list[Row]:
        if self.arms:
            return [{"arm": name, **row} for name, arm in self.arms.items() for row in of(arm)]
        return read_rows(self.path / table, CHECKS[table])


def load_run(path: str | os.PathLike[str]) -> Run:
    """Open a run folder, or the folder of one arm, for reading.

    Raises:
        UserError: there is no such folder, or it is none of ours; where it holds runs, the message names the latest.
    """
    folder = Path(path)
    if (folder / STATUS).is_file():
        return Run(folder, str(read_status(folder / STATUS).get("arm", "")))
    if not folder.exists():
        raise UserError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise UserError(f"{folder}: a file; expected a run folder")
    inside = list_runs(folder)
    hint = f"; it holds {len(inside)} of them, the latest is {inside[0].path}" if inside else ""
    raise UserError(f"{folder}: not a run folder (it has no {STATUS}){hint}")


def list_runs(out: str | os.PathLike[str] = "runs") -> list[Run]:
    """List the runs below a folder of runs (or of one scenario's runs), the latest first; none where there is none."""
    found = [Run(file.parent) for pattern in (f"*/{STATUS}", f"*/*/{STATUS}") for file in Path(out).glob(pattern)]
    runs = [run for run in found if run.path.parent.name != "arms"]
    return sorted(runs, key=lambda run: (_started(run), run.path.name), reverse=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping that this package wrote.

    Raises:
        UserError: the file is no YAML, or no mapping.
    """
    import yaml

    # libyaml's parser, where PyYAML was built with it, takes a tenth of the time.
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        value = yaml.load(read_text(path), Loader=loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a number of too many digits
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict | None):
        raise UserError(f"{path}: holds {type(value).__name__}, expected a mapping of settings")
    return value or {}


def read_text(path: Path) -> str:
    """Read a text file of a run.

    Raises:
        UserError: it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8 ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _started(run: Run) -> str:
    try:
        return str(run.status.get("started", ""))
    except UserError:  # one damaged folder is no reason to show none of the others
        return ""
