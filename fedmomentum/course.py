"""One run of a scenario of any kind, from the folder to the claims: what ``fm.run`` and ``fm.resume`` share."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmomentum import scenario as scenarios
from fedmomentum.errors import UserError
from fedmomentum.events import End, Listener, RoundEnd, Start
from fedmomentum.garbage import no_search, set_aside
from fedmomentum.interrupts import StopAfterRound
from fedmomentum.runs import Recorder, RunFolder, provenance
from fedmomentum.runs.atomic import NotWrittenError, writing
from fedmomentum.runs.profile import Profiler
from fedmomentum.runs.resuming import claim, release

if TYPE_CHECKING:
    from fedmomentum.scenario import Arm, LoadedScenario


@dataclass
class Result:
    """What a run gave, and where it lies.

    Attributes:
        name: of the scenario.
        folder: the run folder.
        arms: rows of metrics by arm, one a round (round 0 is the model at the start); a scenario that compares nothing
            has one arm, ``""``.
        status: ``finished``, ``interrupted`` or ``failed``.
        expectations: the claims of ``expect:`` with what was measured.
        warnings: what a user should know.
        findings: predictions beside measurements by arm, as :mod:`fedmomentum.runs.findings` keeps them; a federated
            run has none.
    """

    name: str
    folder: Path
    arms: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    status: str = "running"
    expectations: list[Any] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    findings: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Every row of every arm: ``pandas.DataFrame(result.metrics)`` is a table."""
        return [{"arm": arm, **row} for arm, rows in self.arms.items() for row in rows]


class StoppedError(RuntimeError):
    """An arm must not go on, such as for a missed quorum; the message says why. What there is, is kept."""


class Course(ABC):
    """One run: its folder, its listeners, its arms one after another, its pictures and claims; kinds fill it in."""

    def __init__(
        self,
        loaded: LoadedScenario,
        listeners: Sequence[Listener],
        *,
        out: str | os.PathLike[str] = "runs",
        folder: RunFolder | None = None,
        new: Path | None = None,
        stop: StopAfterRound | None = None,
        pictures: bool = True,
    ) -> None:
        """Take a scenario, and where it is to leave what it gives.

        Args:
            loaded: the scenario.
            listeners: hear of every round.
            out: folder of all runs, in which a new run folder is made.
            folder: that of a run to go on with, instead.
            new: the very folder to make, instead.
            stop: says when to stop; by default signals do.
            pictures: whether to draw them at the end.
        """
        self.loaded, self.out, self.resumed, self.new = loaded, out, folder, new
        self.listeners = list(listeners)
        self.stop = stop or StopAfterRound()
        self.pictures = pictures
        self.profile = False
        """Whether to write down where the time went."""
        self.result: Result
        self.folder: RunFolder

    @abstractmethod
    def prepare(self) -> Mapping[str, str]:
        """Find every fault of every arm before any work is done or anything is written; give the data's checksums."""

    @abstractmethod
    def run_arm(self, arm: Arm) -> None:
        """Run one arm, or go on with it, and tell the listeners.

        Raises:
            StoppedError: it must not go on.
            KeyboardInterrupt: it was stopped, and what it did is kept.
        """

    @abstractmethod
    def draw(self) -> None:
        """Draw the pictures of the run, all arms together."""

    def close(self) -> None:  # noqa: B027 (most kinds take nothing)
        """Give back what was taken."""

    def go(self) -> Result:
        """Run every arm, then draw the pictures and check the claims."""
        try:
            with no_search():
                checksums = self.prepare()
            from fedmomentum.trackers import prepare

            trackers = [prepare(name) for name in self.loaded.scenario.trackers]
            self.folder = self._open(checksums)
            watching = [make(self.folder.path) for make in trackers]
            self.listeners += watching
            if self.profile:
                self.listeners.append(Profiler(self.folder))
            self.result = Result(self.loaded.scenario.name, self.folder.path)
            try:
                try:
                    with set_aside():
                        self._arms()
                finally:
                    release(self.folder)
            except NotWrittenError as error:
                raise UserError(f"{error}, then go on with: fedmomentum resume {self.folder.path}") from error
            for tracker in watching:
                if tracker.failure:
                    self.warn(str(tracker.failure))
            return self.result
        finally:
            self.close()

    def warn(self, text: str) -> None:
        """Keep something that the user should know, once."""
        if text not in self.result.warnings:
            self.result.warnings.append(text)

    def _open(self, checksums: Mapping[str, str]) -> RunFolder:
        """Make the run folder, or take the one of the run to go on with."""
        if self.resumed is not None:
            claim(self.resumed, checksums, self.loaded.resolved())
            return self.resumed
        name, texts = self.loaded.scenario.name, {"scenario_text": self.loaded.text, "hash": self.loaded.hash}
        resolved = self.loaded.resolved()
        if self.new is not None:
            folder = RunFolder.at(self.new, name, resolved=resolved, **texts)
        else:
            folder = RunFolder.create(self.out, name, resolved=resolved, **texts)
        try:
            folder.write_provenance(provenance(data=dict(checksums)))
        except NotWrittenError:
            shutil.rmtree(folder.path, ignore_errors=True)  # nothing has run, so nothing is lost
            raise
        return folder

    def _arms(self) -> None:
        self.listeners.insert(0, Recorder(self.folder))
        try:
            with self.stop:
                for arm in self.loaded.arms:
                    self.run_arm(arm)
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
        except StoppedError as error:
            status = "failed"
            self.result.warnings.append(f"stopped: {error}")
        except BaseException:
            self.result.status = "failed"
            with suppress(NotWrittenError):  # what went wrong first is what is told
                self.folder.set_status("failed")
            raise
        self.result.status = status
        rounds_done = max((int(row["round"]) for rows in self.result.arms.values() for row in rows), default=0)
        self.folder.set_status(status, rounds_done=rounds_done)
        with writing(self.folder.plots):
            self.draw()
        if status == "finished":
            self.result.expectations = scenarios.check_expectations(self.loaded, self.result.arms)
            self.folder.set_status(expectations=[asdict(claim) for claim in self.result.expectations] or None)


class Rows:
    """A listener that keeps the rows of an arm."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        """Take the list to put them into."""
        self._rows = rows

    def start(self, event: Start) -> None:
        """Nothing to do."""

    def round_end(self, event: RoundEnd) -> None:
        """Keep the row: the very one that listeners are told of, which nobody changes any more."""
        self._rows.append(event.metrics if isinstance(event.metrics, dict) else dict(event.metrics))

    def end(self, event: End) -> None:
        """Nothing to do."""
