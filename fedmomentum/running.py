"""One federated run, from workers to pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fedmomentum.course import Course, Rows, StoppedError
from fedmomentum.errors import UserError
from fedmomentum.events import End, Listener, Start
from fedmomentum.interrupts import StopAfterRound
from fedmomentum.runs import RunFolder, load_run
from fedmomentum.runs.atomic import NotWrittenError
from fedmomentum.runs.findings import write_findings
from fedmomentum.scenario import FederatedScenario
from fedmomentum.simulation.actors import Actors

if TYPE_CHECKING:
    from fedmomentum.build import Federation
    from fedmomentum.data import Dataset
    from fedmomentum.scenario import Arm, LoadedScenario
    from fedmomentum.scenario.running import Engine
    from fedmomentum.simulation.executor import Executor

MOST_COUNTS = 1000
"""Clients up to which the class counts of each go into the run folder."""


class Running(Course):
    """One federated run: workers that its arms share where they can."""

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
        super().__init__(loaded, listeners, out=out, folder=folder, new=new, stop=stop, pictures=pictures)
        self.datasets: dict[str, Dataset] = {}
        self.federations: dict[str, Federation] = {}
        self.executor: Executor | None = None
        self._executor_key: object = None
        self._lent = actors is not None
        self.actors = actors or Actors()

    simulates: ClassVar[bool] = True
    """Whether clients are simulated here, on data that are here."""

    def prepare(self) -> Mapping[str, str]:
        """Build every arm, while Ray comes up where it is wanted."""
        for arm in self.loaded.arms:
            if self.simulates and _federated(arm).data.name == "private":
                raise UserError(
                    "data 'private' lie with the clients: fedmomentum deploy runs this scenario (docs/deploy.md)"
                )
        engines = self.ray()
        for engine in engines[:1]:  # before anything heavy is imported: the actors come up meanwhile
            self.actors.start(engine)
        from fedmomentum.build import build

        self.federations = {arm.name: build(_federated(arm), datasets=self.datasets) for arm in self.loaded.arms}
        self._arrange()
        for engine in engines[:1]:  # a cluster that cannot be had is a fault too
            if self.actors.early(engine):
                self.actors.coming(engine)
            else:
                self.actors.pool(engine)
        return {f.scenario.data.name: f.checksum for f in self.federations.values()}

    def _arrange(self) -> None:
        """Put examples in the order of clients, where all arms split them alike: nobody needs them as they were then.

        Where arms differ in it, the workers of each get examples in their order, one arm after another.
        """
        from fedmomentum.data import arrange

        federations = list(self.federations.values())
        first = federations[0]
        split = first.scenario.seed, first.scenario.data
        if self.simulates and all((f.scenario.seed, f.scenario.data) == split for f in federations):
            self.datasets.clear()
            data = arrange(first.data)
            self.federations = {arm: replace(f, data=data) for arm, f in self.federations.items()}

    def ray(self) -> list[Engine]:
        """Give the settings of those arms that train on Ray actors."""
        return [engine for arm in self.loaded.arms if (engine := _federated(arm).engine).name == "ray"]

    def engine(self, federation: Federation, folder: RunFolder) -> tuple[Any, dict[str, object]]:
        """Give the grid that trains the clients of an arm, whose folder this is, and what is to be said of it."""
        executor = self._workers(federation)
        return federation.grid(executor, scratch=folder.path), executor.facts()

    def evaluation(self, federation: Federation) -> Any:
        """Give what tests the models of an arm."""
        return federation.evaluate if self.executor is None else federation.evaluation(self.executor)

    def checkpoint_due(self, federation: Federation, server_round: int) -> bool:
        """Say whether the scenario asks for a checkpoint after a round."""
        every = federation.scenario.checkpoint.every
        return bool(every) and server_round % every == 0

    def _workers(self, federation: Federation) -> Executor:
        """Give the workers of an arm: those of the one before, where both hold the same data and clients."""
        from fedmomentum.build import build_early, build_executor, may_begin_here

        s = federation.scenario
        key = (s.seed, s.data, federation.spec, s.engine)
        if self.executor is None or key != self._executor_key:
            if self.executor is not None:
                self.executor.close()
            if self.actors.early(s.engine) and may_begin_here(federation):
                self.executor = build_early(federation, partial(self.actors.coming, s.engine))
            else:
                self.executor = build_executor(federation, self.actors.pool(s.engine))
            self._executor_key = key
        return self.executor

    def run_arm(self, arm: Arm) -> None:
        """Run the rounds of an arm."""
        from fedmomentum.checkpointing import ArmCheckpoints
        from fedmomentum.simulation.loop import RoundStoppedError, run_rounds

        federation = self.federations[arm.name]
        folder = self.folder.arm(arm.name)
        checkpoints = ArmCheckpoints(folder, federation.scenario, self.loaded.scenario.name)
        rounds = federation.scenario.rounds
        rows = self.result.arms.setdefault(arm.name, [])
        start = checkpoints.latest() if self.resumed is not None else None
        if start is not None:
            rows += [row for row in load_run(folder.path).metrics if row["round"] <= start.round]
            if start.round >= rounds:
                return
        grid, facts = self.engine(federation, folder)
        latest = [federation.initial_arrays()]  # by no other name, so that it goes when a round has made another
        if start is not None:
            latest = [start.restore(federation.strategy, grid, latest.pop())]
            if federation.predicting is not None and "more" in start.state:
                federation.predicting.load_state_dict(start.state["more"])
        first_round, elapsed = (1, 0.0) if start is None else (start.round + 1, start.elapsed)
        del start
        listeners = [*self.listeners, Rows(rows)]
        facts = {**federation.facts(), **facts}
        if first_round > 1:
            self._tell_of_other_code(folder, str(facts["training"]))
        for listener in listeners:
            listener.start(Start(self.result.name, rounds, first_round, arm.name, facts))

        def settle(server_round: int, new: Any) -> bool:
            """Say whether a checkpoint follows a round: the next one would change what goes into it."""
            latest[0] = new
            return self.checkpoint_due(federation, server_round) or server_round == rounds or self.stop.asked

        def after_round(server_round: int, new: Any) -> None:
            last = server_round == rounds
            if self.checkpoint_due(federation, server_round) or last or self.stop.asked:
                elapsed = float(rows[-1].get("elapsed", 0.0)) if rows else 0.0
                if not checkpoints.save(server_round, new, federation.strategy, grid, elapsed, federation.predicting):
                    self.warn(
                        "the state of this strategy is unknown (it has no state_dict()): no checkpoints, so a stopped "
                        "run cannot go on"
                    )
            if self.stop.asked and not last:
                raise KeyboardInterrupt

        status, message = "failed", ""
        try:
            run_rounds(
                federation.strategy,
                grid,
                latest[0],
                rounds,
                first_round=first_round,
                evaluate=self.evaluation(federation),
                settle=settle,
                listeners=listeners,
                arm=arm.name,
                after_round=after_round,
                elapsed_before=elapsed,
            )
            status = "finished"
        except KeyboardInterrupt:
            status, message = "interrupted", "stopped by a signal"
            raise
        except RoundStoppedError as error:
            message = str(error)
            raise StoppedError(message) from error
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            raise
        finally:
            done = max((int(row["round"]) for row in rows), default=0)
            # on a full disk nothing more can be written: what went wrong first is what is told
            lenient = suppress(NotWrittenError) if status == "failed" else nullcontext()
            with lenient:
                if status != "failed":
                    self._tell_where(facts, folder)
                checkpoints.export(latest[0], done)
                if federation.predicting is not None:
                    federation.predicting.save(folder.path)
                    self._find(arm.name, federation, folder)
            for listener in listeners:
                with lenient:
                    listener.end(End(status, done, arm.name, message))

    def _tell_of_other_code(self, folder: RunFolder, now: str) -> None:
        """Warn where a run goes on by another code than it began with: its rounding is another one."""
        before = (folder.status().get("facts") or {}).get("training", now)
        if before != now:
            self.warn(
                f"{folder.path}: clients were trained by {before}, and from here on by {now}; rounding differs, so "
                "models are not those of a run that was never stopped. engine.native and engine.gram_memory choose it, "
                "and compiled code needs a C compiler when fedmomentum is installed."
            )

    def _tell_where(self, facts: Mapping[str, object], folder: RunFolder) -> None:
        """Write down what ran before the workers of an arm were there, and who they are."""
        from fedmomentum.simulation.early import EarlyExecutor

        if isinstance(self.executor, EarlyExecutor):
            folder.set_status(facts={**facts, **self.executor.facts(), **self.executor.course()})

    def _find(self, arm: str, federation: Federation, folder: RunFolder) -> None:
        """Keep what was predicted of the draws of an arm beside what was measured."""
        from fedmomentum.gaussian_posterior import GaussianPosterior

        judge = federation.predicting
        if not isinstance(judge, GaussianPosterior):
            return
        found = judge.findings()
        write_findings(folder.path, found)
        self.result.findings[arm] = [dict(finding) for finding in found]
        if judge.unpredicted:
            self.warn(f"{arm}: {judge.unpredicted}".removeprefix(": "))

    def draw(self) -> None:
        """Draw the metrics over rounds, and write down (and draw) who holds what."""
        from fedmomentum.data import summarise
        from fedmomentum.report import draw_outcome, draw_partition, draw_posterior, draw_probes, draw_reliability

        self.close()
        question = self.loaded.scenario.question or self.result.name
        if self.pictures:
            draw_outcome(load_run(self.folder.path), self.loaded, self.result.arms, self.folder.plots)
        columns = {key for rows in self.result.arms.values() for row in rows for key in row}
        if self.pictures and any(key.startswith("probe_") for key in columns):
            draw_probes(load_run(self.folder.path), folder=self.folder.plots, question=question)
        if self.pictures:
            places = {arm.name: self.folder.arm(arm.name).path for arm in self.loaded.arms}
            draw_reliability(places, folder=self.folder.plots, question=question)
            draw_posterior(places, folder=self.folder.plots, question=question)
        splits: dict[str, list[str]] = {}
        for arm, federation in self.federations.items():
            if federation.data.y.ndim == 1:
                splits.setdefault(f"{federation.scenario.seed} {federation.scenario.data!r}", []).append(arm)
        records = []
        for number, arms in enumerate(splits.values(), start=1):
            one = self.federations[arms[0]]
            data, settings = one.data, one.scenario.data
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
        executor, self.executor = self.executor, None
        if executor is not None:
            executor.close()
        if not self._lent:
            self.actors.close()


def _federated(arm: Arm) -> FederatedScenario:
    assert isinstance(arm.scenario, FederatedScenario)
    return arm.scenario
