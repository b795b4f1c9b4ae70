"""One run of a scenario, from workers to pictures: what ``fm.run`` and ``fm.resume`` share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmomentum import scenario as scenarios
from fedmomentum.errors import UserError
from fedmomentum.events import End, Listener, RoundEnd, Start
from fedmomentum.interrupts import StopAfterRound
from fedmomentum.runs import Recorder, RunFolder, load_run, provenance
from fedmomentum.runs.atomic import NotWrittenError, writing
from fedmomentum.runs.resuming import claim, release
from fedmomentum.simulation.actors import Actors

if TYPE_CHECKING:
    from fedmomentum.build import Federation
    from fedmomentum.data import Dataset
    from fedmomentum.scenario import Arm, LoadedScenario
    from fedmomentum.simulation.executor import Executor

MOST_COUNTS = 1000
"""Clients up to which the class counts of each go into the run folder."""


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
    """

    name: str
    folder: Path
    arms: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    status: str = "running"
    expectations: list[Any] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Every row of every arm: ``pandas.DataFrame(result.metrics)`` is a table."""
        return [{"arm": arm, **row} for arm, rows in self.arms.items() for row in rows]


class Running:
    """One run: its folder, its listeners, and workers that arms share where they can."""

    def __init__(
        self,
        loaded: LoadedScenario,
        listeners: Sequence[Listener],
        *,
        out: str | os.PathLike[str] = "runs",
        folder: RunFolder | None = None,
        new: Path | None = None,
        actors: Actors | None = None,
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
            actors: Ray actors that outlive this run; by default it has its own.
            stop: says when to stop; by default signals do.
            pictures: whether to draw them at the end.
        """
        self.loaded, self.out, self.resumed, self.new = loaded, out, folder, new
        self.listeners = list(listeners)
        self.datasets: dict[str, Dataset] = {}
        self.executor: Executor | None = None
        self._executor_key: object = None
        self._lent = actors is not None
        self.actors = actors or Actors()
        self.stop = stop or StopAfterRound()
        self.pictures = pictures
        self.result: Result

    def go(self) -> Result:
        """Run every arm, then draw the pictures and check the claims."""
        engines = [arm.scenario.engine for arm in self.loaded.arms if arm.scenario.engine.name == "ray"]
        try:
            for engine in engines[:1]:  # before anything heavy is imported: the actors come up meanwhile
                self.actors.start(engine)
            from fedmomentum.build import build

            # every fault of every arm shows before any work is done or anything is written
            federations = {arm.name: build(arm.scenario, datasets=self.datasets) for arm in self.loaded.arms}
            for engine in engines[:1]:
                self.actors.pool(engine)  # a cluster that cannot be had is a fault too
            from fedmomentum.trackers import prepare

            trackers = [prepare(name) for name in self.loaded.scenario.trackers]
            self.folder = self._open(federations)
            watching = [make(self.folder.path) for make in trackers]
            self.listeners += watching
            self.result = Result(self.loaded.scenario.name, self.folder.path)
            try:
                try:
                    self._arms(federations)
                finally:
                    release(self.folder)
            except NotWrittenError as error:
                raise UserError(f"{error}, then go on with: fedmomentum resume {self.folder.path}") from error
            for tracker in watching:
                if tracker.failure:
                    self._warn(str(tracker.failure))
            return self.result
        finally:
            self.close()

    def _open(self, federations: dict[str, Federation]) -> RunFolder:
        """Make the run folder, or take the one of the run to go on with."""
        checksums: dict[str, str] = {f.scenario.data.name: f.checksum for f in federations.values()}
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
            folder.write_provenance(provenance(data=checksums))
        except NotWrittenError:
            shutil.rmtree(folder.path, ignore_errors=True)  # nothing has run, so nothing is lost
            raise
        return folder

    def _arms(self, federations: dict[str, Federation]) -> None:
        from fedmomentum.simulation.loop import RoundStoppedError

        self.listeners.insert(0, Recorder(self.folder))
        try:
            with self.stop:
                for arm in self.loaded.arms:
                    self._arm(arm, federations[arm.name])
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
        except RoundStoppedError as error:
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
            self._draw(federations)
        if status == "finished":
            self.result.expectations = scenarios.check_expectations(self.loaded, self.result.arms)
            self.folder.set_status(expectations=[asdict(claim) for claim in self.result.expectations] or None)

    def _workers(self, arm: Arm, federation: Federation) -> Executor:
        """Give the workers of an arm: those of the one before, where both hold the same data and clients."""
        from fedmomentum.build import build_executor

        s = arm.scenario
        key = (s.seed, s.data, federation.spec, s.engine)
        if self.executor is None or key != self._executor_key:
            if self.executor is not None:
                self.executor.close()
            self.executor = build_executor(federation, self.actors.pool(s.engine))
            self._executor_key = key
        return self.executor

    def _arm(self, arm: Arm, federation: Federation) -> None:
        from fedmomentum.checkpointing import ArmCheckpoints
        from fedmomentum.simulation.loop import RoundStoppedError, run_rounds

        folder = self.folder.arm(arm.name)
        checkpoints = ArmCheckpoints(folder, arm.scenario, self.loaded.scenario.name)
        rounds = arm.scenario.rounds
        rows = self.result.arms.setdefault(arm.name, [])
        start = checkpoints.latest() if self.resumed is not None else None
        if start is not None:
            rows += [row for row in load_run(folder.path).metrics if row["round"] <= start.round]
            if start.round >= rounds:
                return
        executor = self._workers(arm, federation)
        grid = federation.grid(executor, scratch=folder.path)
        arrays = federation.initial_arrays()
        if start is not None:
            arrays = start.restore(federation.strategy, grid)
        first_round = 1 if start is None else start.round + 1
        listeners = [*self.listeners, _Rows(rows)]
        facts = {**federation.facts(), **executor.facts()}
        for listener in listeners:
            listener.start(Start(self.result.name, rounds, first_round, arm.name, facts))
        latest = [arrays]

        def after_round(server_round: int, new: Any) -> None:
            latest[0] = new
            last = server_round == rounds
            if checkpoints.due(server_round) or last or self.stop.asked:
                elapsed = float(rows[-1].get("elapsed", 0.0)) if rows else 0.0
                if not checkpoints.save(server_round, new, federation.strategy, grid, elapsed):
                    self._warn("this strategy has no state_dict(), so a stopped run cannot go on: no checkpoints")
            if self.stop.asked and not last:
                raise KeyboardInterrupt

        status, message = "failed", ""
        try:
            run_rounds(
                federation.strategy,
                grid,
                arrays,
                rounds,
                first_round=first_round,
                evaluate=federation.evaluate,
                listeners=listeners,
                arm=arm.name,
                after_round=after_round,
                elapsed_before=0.0 if start is None else start.elapsed,
            )
            status = "finished"
        except KeyboardInterrupt:
            status, message = "interrupted", "stopped by a signal"
            raise
        except RoundStoppedError as error:
            message = str(error)
            raise
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            raise
        finally:
            done = max((int(row["round"]) for row in rows), default=0)
            # on a full disk nothing more can be written: what went wrong first is what is told
            lenient = suppress(NotWrittenError) if status == "failed" else nullcontext()
            with lenient:
                checkpoints.export(latest[0], done)
            for listener in listeners:
                with lenient:
                    listener.end(End(status, done, arm.name, message))

    def _warn(self, text: str) -> None:
        if text not in self.result.warnings:
            self.result.warnings.append(text)

    def _draw(self, federations: dict[str, Federation]) -> None:
        """Draw the metrics over rounds, and write down (and draw) who holds what."""
        from fedmomentum.data import summarise
        from fedmomentum.report import draw_metric, draw_partition

        question = self.loaded.scenario.question or self.result.name
        for metric in ("accuracy", "loss"):
            if self.pictures and any(metric in row for rows in self.result.arms.values() for row in rows):
                draw_metric(self.result.arms, metric, folder=self.folder.plots, question=question)
        splits: dict[object, list[str]] = {}
        for arm, federation in federations.items():
            if federation.data.y.ndim == 1:
                splits.setdefault((federation.scenario.seed, federation.scenario.data), []).append(arm)
        records = []
        for number, arms in enumerate(splits.values(), start=1):
            data, settings = federations[arms[0]].data, federations[arms[0]].scenario.data
            summary = summarise(data.y, data.partition, data.classes)
            record: dict[str, object] = {"arms": arms, "summary": summary.as_dict()}
            if len(summary.counts) <= MOST_COUNTS:
                record["counts"] = summary.counts.tolist()
            records.append(record)
            if self.pictures:
                name = "partition" if number == 1 else f"partition-{number}"
                title = f"Who holds what: {settings.name}, {settings.partition.name}"
                draw_partition(summary.counts, folder=self.folder.plots, name=name, question=title)
        self.folder.write_partitions(records)

    def close(self) -> None:
        """Give back workers, and Ray where it was started here."""
        if self.executor is not None:
            self.executor.close()
        if not self._lent:
            self.actors.close()


class _Rows:
    """Keeps the rows of an arm for the result."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def start(self, event: Start) -> None:
        """Nothing to do."""

    def round_end(self, event: RoundEnd) -> None:
        """Keep the row."""
        self._rows.append(dict(event.metrics))

    def end(self, event: End) -> None:
        """Nothing to do."""
