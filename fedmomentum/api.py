"""Run a scenario from Python: ``result = fm.run("scenarios/quickstart.yaml", overrides=["rounds=3"])``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmomentum import scenario as scenarios
from fedmomentum.events import End, Listener, Start
from fedmomentum.runs import Recorder, RunFolder, provenance

if TYPE_CHECKING:
    from fedmomentum.build import Federation
    from fedmomentum.data import Dataset
    from fedmomentum.scenario import Arm, LoadedScenario
    from fedmomentum.simulation.executor import Executor
    from fedmomentum.simulation.ray_pool import RayPoolStart


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


def run(
    path: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    out: str | os.PathLike[str] = "runs",
    listeners: Sequence[Listener] = (),
) -> Result:
    """Run a scenario file, arm by arm, and leave a run folder.

    Args:
        path: a YAML file, or the name of a scenario that comes with the package.
        overrides: ``"a.b=value"``, as ``--set`` takes them.
        out: folder of all runs.
        listeners: hear of every round; see :mod:`fedmomentum.events`.

    Raises:
        UserError: the scenario, or something that it names, is not as it should be; nothing was run then.
    """
    loaded = scenarios.load(path, list(overrides))
    run_of = _Run(loaded, out, listeners)
    try:
        run_of.go()
    finally:
        run_of.close()
    return run_of.result


class _Run:
    """One run: its folder, its listeners, and workers that arms share where they can."""

    def __init__(self, loaded: LoadedScenario, out: str | os.PathLike[str], listeners: Sequence[Listener]) -> None:
        self.loaded, self.out = loaded, out
        self.listeners = list(listeners)
        self.datasets: dict[str, Dataset] = {}
        self.executor: Executor | None = None
        self._executor_key: object = None
        self._ray: RayPoolStart | None = None
        self._pool_key: dict[str, Any] | None = None
        self.result: Result

    def go(self) -> None:
        """Run every arm, then draw the pictures and check the claims."""
        self._start_ray()
        from fedmomentum.build import build
        from fedmomentum.simulation.loop import RoundStoppedError

        arms = self.loaded.arms
        federations = {
            arm.name: build(arm.scenario, datasets=self.datasets) for arm in arms
        }  # all faults before any work
        name = self.loaded.scenario.name
        self.folder = RunFolder.create(
            self.out, name, scenario_text=self.loaded.text, resolved=self.loaded.resolved(), hash=self.loaded.hash
        )
        self.result = Result(name, self.folder.path)
        checksums = {f.scenario.data.name: f.checksum for f in federations.values()}
        self.folder.write_provenance(provenance(data=checksums))
        self.listeners.insert(0, Recorder(self.folder))
        try:
            for arm in arms:
                self._arm(arm, federations[arm.name])
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
        except RoundStoppedError as error:
            status = "failed"
            self.result.warnings.append(f"stopped: {error}")
        except BaseException:
            self.result.status = "failed"
            self.folder.set_status("failed")
            raise
        self.result.status = status
        rounds_done = max((int(row["round"]) for rows in self.result.arms.values() for row in rows), default=0)
        self.folder.set_status(status, rounds_done=rounds_done)
        self._draw(federations)
        if status == "finished":
            self.result.expectations = scenarios.check_expectations(self.loaded, self.result.arms)
            self.folder.set_status(expectations=[asdict(claim) for claim in self.result.expectations] or None)

    def _start_ray(self) -> None:
        """Start the Ray actors before anything heavy is imported here: they come up while this process imports."""
        engines = [arm.scenario.engine for arm in self.loaded.arms if arm.scenario.engine.name == "ray"]
        if engines:
            from fedmomentum.simulation.ray_pool import RayPoolStart

            self._pool_key = _pool_settings(engines[0])
            self._ray = RayPoolStart(**(self._pool_key or {}))

    def _workers(self, arm: Arm, federation: Federation) -> Executor:
        """Give the workers of an arm: those of the one before, where both hold the same data and clients."""
        from fedmomentum.build import build_executor

        s = arm.scenario
        key = (s.seed, s.data, s.model, s.client, s.engine)
        if self.executor is None or key != self._executor_key:
            if self.executor is not None:
                self.executor.close()
            fits = self._ray is not None and self._pool_key == _pool_settings(s.engine)
            self.executor = build_executor(federation, self._ray.pool() if self._ray is not None and fits else None)
            self._executor_key = key
        return self.executor

    def _arm(self, arm: Arm, federation: Federation) -> None:
        from fedmomentum.simulation.flower import to_arrays
        from fedmomentum.simulation.loop import RoundStoppedError, run_rounds

        executor = self._workers(arm, federation)
        grid = federation.grid(executor)
        rows = self.result.arms.setdefault(arm.name, [])
        listeners = [*self.listeners, _Rows(rows)]
        facts = {**federation.facts(), **executor.facts()}
        for listener in listeners:
            listener.start(Start(self.result.name, arm.scenario.rounds, 1, arm.name, facts))
        latest: list[Any] = [federation.initial_arrays()]
        status, message = "failed", ""
        try:
            run_rounds(
                federation.strategy,
                grid,
                latest[0],
                arm.scenario.rounds,
                evaluate=federation.evaluate,
                listeners=listeners,
                arm=arm.name,
                after_round=lambda _, arrays: latest.__setitem__(0, arrays),
            )
            status = "finished"
        except KeyboardInterrupt:
            status, message = "interrupted", "stopped by Ctrl-C"
            raise
        except RoundStoppedError as error:
            message = str(error)
            raise
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            raise
        finally:
            import torch

            tree = {n: torch.from_numpy(a.copy()) for n, a in to_arrays(latest[0]).items()}
            done = max((int(row["round"]) for row in rows), default=0)
            self.folder.arm(arm.name).save_parameters(tree, scenario=self.result.name, round=done)
            for listener in listeners:
                listener.end(End(status, done, arm.name, message))

    def _draw(self, federations: dict[str, Federation]) -> None:
        """Draw accuracy (or the first metric there is) over rounds, and who holds what."""
        from fedmomentum.data import summarise
        from fedmomentum.report import draw_metric, draw_partition

        question = self.loaded.scenario.question or self.result.name
        for metric in ("accuracy", "loss"):
            if any(metric in row for rows in self.result.arms.values() for row in rows):
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
            name = "partition" if number == 1 else f"partition-{number}"
            title = f"Who holds what: {settings.name}, {settings.partition.name}"
            draw_partition(summary.counts, folder=self.folder.plots, name=name, question=title)
        self.folder.write_partitions(records)

    def close(self) -> None:
        """Give back workers, and Ray where it was started here."""
        if self.executor is not None:
            self.executor.close()
        if self._ray is not None:
            self._ray.close()


def _pool_settings(engine: Any) -> dict[str, Any] | None:
    """Give what a pool of Ray actors is made of; None for an engine that has none."""
    if engine.name != "ray":
        return None
    workers = None if engine.workers == "auto" else engine.workers
    return {"workers": workers, "cpus": engine.cpus, "gpus": engine.gpus, "address": engine.address}


class _Rows:
    """Keeps the rows of an arm for the result."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def start(self, event: Start) -> None:
        """Nothing to do."""

    def round_end(self, event: Any) -> None:
        """Keep the row."""
        self._rows.append(dict(event.metrics))

    def end(self, event: End) -> None:
        """Nothing to do."""
