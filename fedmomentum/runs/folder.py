"""The folder of one run: where each thing stands, and how it gets there.

```
<out>/<name>/<YYYYmmdd-HHMMSS>-<hash8>/
    scenario.yaml      as written             metrics.jsonl    one row a round
    resolved.yaml      every default filled   clients.jsonl    one row a client and round
    provenance.json    versions, machine      failures.jsonl   one row a reply that was not used
    status.json        what became of it      model.safetensors, plots/
    profile.json, trace.json   where the time went (with --profile)
    arms/<arm>/        the same files once more, where a scenario compares several arms
```
"""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmomentum.errors import UserError
from fedmomentum.runs.atomic import NotWrittenError, write_json, write_text, writing
from fedmomentum.runs.checks import read_status
from fedmomentum.runs.process import this_process

if TYPE_CHECKING:
    from torch import Tensor

SCENARIO, RESOLVED = "scenario.yaml", "resolved.yaml"
PARTITION = "partition.json"
PROVENANCE, STATUS = "provenance.json", "status.json"
METRICS, CLIENTS, FAILURES = "metrics.jsonl", "clients.jsonl", "failures.jsonl"
DEPLOYMENT = "deployment.json"
"""Of a run with real clients: which federation it went to, under what id, with which settings."""
MODEL, PLOTS, ARMS = "model.safetensors", "plots", "arms"

STATUSES = ("running", "finished", "interrupted", "failed")


@dataclass(frozen=True)
class RunFolder:
    """A run folder open for writing, or the folder of one of its arms."""

    path: Path
    arm_name: str = ""
    """Empty for the run itself."""

    @classmethod
    def create(
        cls, out: str | os.PathLike[str], name: str, *, scenario_text: str, resolved: Mapping[str, Any], hash: str
    ) -> RunFolder:
        """Make a new folder ``<out>/<name>/<time>-<hash8>``; a second one within a second gets a number.

        Args:
            out: folder of all runs, made where it is missing.
            name: name of the scenario; what cannot stand in a file name is replaced.
            scenario_text: the YAML as the user wrote it.
            resolved: the scenario with every default filled in, as plain data.
            hash: hash of the resolved scenario, hexadecimal; its first eight digits go into the name.

        Raises:
            UserError: the folder cannot be made.
        """
        parent = Path(out) / slug(name)
        stem = f"{datetime.now():%Y%m%d-%H%M%S}-{hash[:8]}"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            path = _make_new(parent, stem)
        except OSError as error:
            raise UserError(f"{parent}: cannot make a run folder here: {error.strerror}") from error
        try:
            return cls.at(path, name, scenario_text=scenario_text, resolved=resolved, hash=hash)
        except NotWrittenError:
            shutil.rmtree(path, ignore_errors=True)  # nothing has run, so nothing is lost
            raise

    @classmethod
    def at(cls, path: Path, name: str, *, scenario_text: str, resolved: Mapping[str, Any], hash: str) -> RunFolder:
        """Make the folder at a path a run folder; ``status.json`` comes last, and without it there is none yet.

        Raises:
            UserError: the folder cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: cannot make a run folder here: {error.strerror}") from error
        folder = cls(path)
        write_text(path / SCENARIO, scenario_text)
        folder.write_resolved(resolved)
        folder.set_status("running", name=name, hash=hash, rounds_done=0, started=_now(), **this_process())
        return folder

    def arm(self, name: str) -> RunFolder:
        """Give the folder of one arm, ``arms/<slug>``, made on first use; the arm named ``""`` is the run itself.

        Arms whose names give equal slugs get folders of their own; ``status.json`` of the run maps names to folders,
        in the order in which arms were first asked for.
        """
        if name in ("", self.arm_name):
            return self
        known: dict[str, str] = self.status().get("arms", {})
        if name not in known:
            with writing(self.path / ARMS):
                (self.path / ARMS).mkdir(exist_ok=True)
                path = _make_new(self.path / ARMS, slug(name))
            self.set_status(arms=known | {name: path.relative_to(self.path).as_posix()})
            arm = RunFolder(path, name)
            arm.set_status("running", arm=name, rounds_done=0, started=_now(), **this_process())
            return arm
        return RunFolder(self.path / known[name], name)

    def status(self) -> dict[str, Any]:
        """Read ``status.json``."""
        return read_status(self.path / STATUS)

    def set_status(self, status: str | None = None, **facts: object) -> None:
        """Change ``status.json``: what became of the run, and any further facts; times are kept by themselves.

        Raises:
            ValueError: the status is none of ``STATUSES``.
        """
        now = _now()
        values = self.status() | {key: value for key, value in facts.items() if value is not None}
        if status is not None:
            if status not in STATUSES:
                raise ValueError(f"status '{status}' is none of {', '.join(STATUSES)}")
            values["status"] = status
            if status == "running":
                values.pop("ended", None)
            else:
                values["ended"] = now
        write_json(self.path / STATUS, values | {"updated": now})

    def write_resolved(self, resolved: Mapping[str, Any]) -> None:
        """Write ``resolved.yaml``: the scenario with every default filled in."""
        write_text(self.path / RESOLVED, _yaml(resolved))

    def write_provenance(self, facts: Mapping[str, object]) -> None:
        """Write ``provenance.json``; see :func:`fedmomentum.runs.provenance`."""
        write_json(self.path / PROVENANCE, facts)

    def write_partitions(self, partitions: Sequence[Mapping[str, object]]) -> None:
        """Write ``partition.json``: for each way the data was split, the arms that share it, a summary, the counts."""
        write_json(self.path / PARTITION, list(partitions))

    def save_parameters(self, tree: Mapping[str, Tensor], **metadata: object) -> Path:
        """Write ``model.safetensors`` and give its path; see :func:`fedmomentum.runs.save_parameters`."""
        from fedmomentum.runs.parameters import save_parameters

        path = self.path / MODEL
        save_parameters(path, tree, metadata={"arm": self.arm_name, **metadata} if self.arm_name else metadata)
        return path

    @property
    def plots(self) -> Path:
        """The folder of pictures, made on first use."""
        path = self.path / PLOTS
        with writing(path):
            path.mkdir(exist_ok=True)
        return path


def slug(name: str) -> str:
    """Give a name that is safe as one file name everywhere: letters, digits, ``.``, ``_``, ``=`` and ``-``."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^\w.=-]+", "-", plain).strip("-.")[:80] or "run"


def _make_new(parent: Path, stem: str) -> Path:
    """Make a folder that was not there: ``stem``, else ``stem-2`` and so on. ``mkdir`` decides, so races are safe."""
    number = 1
    while True:
        path = parent / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _yaml(value: Mapping[str, Any]) -> str:
    from fedmomentum.scenario import as_yaml

    return as_yaml(dict(value))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
