"""From a scenario with many points to a folder with the run of each, a table and pictures."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmomentum import scenario as scenarios
from fedmomentum.course import Result
from fedmomentum.errors import UserError
from fedmomentum.interrupts import StopAfterRound
from fedmomentum.runs import Run, RunFolder, load_run, provenance, slug
from fedmomentum.runs.atomic import NotWrittenError, writing
from fedmomentum.runs.folder import STATUS
from fedmomentum.runs.resuming import claim, not_shortened, release, same_science
from fedmomentum.sweeping.crew import Crew
from fedmomentum.sweeping.flags import sweep_overrides
from fedmomentum.sweeping.point import Point, points_of
from fedmomentum.sweeping.table import write_table
from fedmomentum.sweeping.task import Answer, Task

if TYPE_CHECKING:
    from fedmomentum.data import Dataset
    from fedmomentum.scenario import LoadedScenario
    from fedmomentum.scenario.shape import AnyScenario
    from fedmomentum.simulation.ray_pool import SharedRay

KIND = "sweep"
MOST_DATASETS = 4
"""Data sets that are held at a time while points are checked."""


@dataclass(frozen=True)
class PointEnd:
    """A point is done.

    Attributes:
        name: of the point.
        status: ``finished``, ``interrupted`` or ``failed``.
        message: why it failed.
        rows: its metrics, one row a round.
        done: points that are done by now, those that were done before among them.
        total: points of the sweep.
        remaining: seconds until all are, at the pace so far.
    """

    name: str
    status: str
    message: str
    rows: Sequence[Mapping[str, Any]]
    done: int
    total: int
    remaining: float


OnPoint = Callable[[PointEnd], None]


def sweep(
    path: str | os.PathLike[str],
    *,
    grid: Mapping[str, object] | Sequence[str] = (),
    zip: Mapping[str, object] | Sequence[str] = (),
    seeds: int | None = None,
    overrides: Sequence[str] = (),
    out: str | os.PathLike[str] = "runs",
    jobs: int = 1,
    on_point: OnPoint | None = None,
    loud: bool = False,
) -> Result:
    """Run every point of a scenario, or those that are left where the same sweep was begun before.

    A point gives the bits that :func:`fedmomentum.run` of it gives, whatever the number of jobs.

    Args:
        path: a YAML file, or the name of a scenario that comes with the package; its ``arms`` or ``sweep`` are points.
        grid: path of a setting -> values; every combination is a point.
        zip: path of a setting -> values; lists of one length that move together.
        seeds: repeat every point with this many seeds.
        overrides: ``"a.b=value"``, as ``--set`` takes them.
        out: folder of all runs.
        jobs: points that run at the same time, each in a process of its own; they share one Ray.
        on_point: hears of each point that is done.
        loud: let the processes write to stderr.

    Raises:
        UserError: a point is not as it should be (nothing was run then), or the folder cannot be written to.
    """
    loaded = scenarios.load(path, [*overrides, *sweep_overrides(grid, zip, seeds)])
    folder = Path(out) / slug(loaded.scenario.name) / f"sweep-{loaded.hash[:8]}"
    if is_sweep(folder):
        known = load_run(folder).status.get("hash")
        if known != loaded.hash:
            raise UserError(
                f"{folder}: holds a sweep that was gone on with other settings since; go on with it by "
                f"'fedmomentum resume {folder}', or give another folder with --out"
            )
    return _Sweep(loaded, folder, jobs=jobs, on_point=on_point, loud=loud).go()


def resume_sweep(
    path: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    jobs: int = 1,
    on_point: OnPoint | None = None,
    loud: bool = False,
) -> Result:
    """Go on with a sweep: points that finished stay, those that began go on from their checkpoints.

    Args:
        path: the folder of a sweep.
        overrides: as :func:`fedmomentum.resume` takes them; ``rounds`` extends every point.
        jobs: points that run at the same time.
        on_point: hears of each point that is done.
        loud: let the processes write to stderr.

    Raises:
        UserError: it is no sweep, another process is at it, or an override changes what it is about.
    """
    folder = Path(path)
    was = load_run(folder)
    if not is_sweep(folder):
        raise UserError(f"{folder}: not the folder of a sweep")
    loaded = scenarios.load(folder / "resolved.yaml", list(overrides))
    same_science(was, loaded.resolved())
    not_shortened(was, {arm.name: arm.scenario.rounds for arm in loaded.arms if hasattr(arm.scenario, "rounds")})
    return _Sweep(loaded, folder, jobs=jobs, on_point=on_point, loud=loud).go()


def is_sweep(folder: Path) -> bool:
    """Say whether a folder is that of a sweep."""
    return (folder / STATUS).is_file() and load_run(folder).status.get("kind") == KIND


class _Sweep:
    def __init__(self, loaded: LoadedScenario, path: Path, *, jobs: int, on_point: OnPoint | None, loud: bool) -> None:
        if jobs < 1:
            raise UserError(f"jobs: expected at least 1, not {jobs}")
        self.loaded, self.path, self.jobs, self.loud = loaded, path, jobs, loud
        self.on_point = on_point or (lambda event: None)
        folders = load_run(path).status.get("arms", {}) if is_sweep(path) else {}
        self.points = {point.name: point for point in points_of(loaded, folders)}
        self.left = [point for point in self.points.values() if not point.finished(path)]
        self.result = Result(loaded.scenario.name, path)
        self.stop = StopAfterRound()

    def go(self) -> Result:
        """Check the points that are left, run them, and put together what all of them gave."""
        if not self.left:
            self._put_together("finished")
            return self.result
        self.jobs = min(self.jobs, len(self.left))
        crew = Crew(self.jobs, loud=self.loud)  # its processes import while we check
        ray: SharedRay | None = None
        try:
            scenarios_left = [point.loaded.scenario for point in self.left]
            engines = [one.engine for one in scenarios_left if one.kind == "federated" and one.engine.name == "ray"]
            if engines:
                from fedmomentum.simulation.ray_pool import SharedRay

                ray = SharedRay(engines, jobs=self.jobs)
            self.folder = self._open(self._check())
            try:
                try:
                    self._put_together(self._run(crew, ray))
                finally:
                    release(self.folder)
            except NotWrittenError as error:
                raise UserError(f"{error}, then go on with: fedmomentum resume {self.path}") from error
        finally:
            crew.close()
            if ray is not None:
                ray.close()
        return self.result

    def _check(self) -> dict[str, str]:
        """Build every point that is left, so that each fault shows before anything runs; give checksums of the data."""
        datasets: dict[str, Dataset] = {}
        checksums: dict[str, str] = {}
        for point in self.left:
            begun = point.run(self.path)
            if begun is not None:
                same_science(begun, point.loaded.resolved())
            if len(datasets) > MOST_DATASETS:
                datasets.clear()
            try:
                checksums |= _try(point.loaded.scenario, datasets)
            except UserError as error:
                raise UserError(f"{point.name}: {error}" if point.name else str(error)) from error
        return checksums

    def _open(self, checksums: Mapping[str, str]) -> RunFolder:
        """Make the folder of the sweep, or take the one that is there."""
        resolved = self.loaded.resolved()
        if is_sweep(self.path):
            folder = RunFolder(self.path)
            claim(folder, checksums, resolved)
            folder.set_status(hash=self.loaded.hash)
        else:
            folder = RunFolder.at(
                self.path,
                self.loaded.scenario.name,
                scenario_text=self.loaded.text,
                resolved=resolved,
                hash=self.loaded.hash,
            )
            folder.write_provenance(provenance(data=checksums))
        folders = {point.name: point.folder for point in self.points.values()}
        folder.set_status(kind=KIND, arms=folders, points=len(folders))
        return folder

    def _run(self, crew: Crew, ray: SharedRay | None) -> str:
        """Run the points that are left; give what became of the sweep."""
        began, done, failed = time.monotonic(), 0, False
        before = len(self.points) - len(self.left)
        tasks = [self._task(point, ray) for point in self.left]
        fault = ""
        with self.stop:
            for task, answer in crew.run(tasks, stop=self.stop):
                done += answer.status != "interrupted"
                failed |= answer.status == "failed"
                self._note(task, answer)
                if answer.fault and not fault:
                    fault = f"{task.name}: {answer.message}" if task.name else answer.message
                    crew.stop()
                self.folder.set_status(points_done=before + done)
                pace = (time.monotonic() - began) / max(1, done)
                rows = Run(task.folder).metrics
                self.on_point(
                    PointEnd(
                        task.name,
                        answer.status,
                        answer.message,
                        rows,
                        before + done,
                        len(self.points),
                        pace * (len(tasks) - done),
                    )
                )
        if fault:
            raise UserError(fault)
        if done < len(tasks):
            return "interrupted"
        return "failed" if failed else "finished"

    def _task(self, point: Point, ray: SharedRay | None) -> Task:
        address, workers = (None, None) if ray is None else (ray.address, ray.workers)
        return Task(point.name, point.loaded, self.path / point.folder, address, workers, tuple(sys.argv))

    def _note(self, task: Task, answer: Answer) -> None:
        if answer.status == "failed":
            self._warn(f"{task.name or 'the point'}: {answer.message}")
        for warning in answer.warnings:
            if not warning.startswith("stopped: "):
                self._warn(warning)

    def _warn(self, text: str) -> None:
        if text not in self.result.warnings:
            self.result.warnings.append(text)

    def _put_together(self, status: str) -> None:
        """Write table and pictures of all that there is, and check the claims once all of it is."""
        from fedmomentum.report import draw_outcome

        folder = RunFolder(self.path)
        result = self.result
        result.status = status
        for point in self.points.values():
            run = point.run(self.path)
            result.arms[point.name] = [] if run is None else run.metrics
        rounds = max((int(row["round"]) for rows in result.arms.values() for row in rows), default=0)
        folder.set_status(status, rounds_done=rounds)
        write_table(self.path, list(self.points.values()))
        with writing(folder.plots):
            draw_outcome(load_run(self.path), self.loaded, result.arms, folder.plots)
        if status == "finished":
            result.expectations = scenarios.check_expectations(self.loaded, result.arms)
            folder.set_status(expectations=[asdict(claim) for claim in result.expectations] or None)


def _try(scenario: AnyScenario, datasets: dict[str, Dataset]) -> dict[str, str]:
    """Make what a point needs, to see that it can be made; give checksums of its data."""
    if scenario.kind == "federated":
        from fedmomentum.build import build

        federation = build(scenario, datasets=datasets)
        return {federation.scenario.data.name: federation.checksum}
    from fedmomentum.experiments import make

    facts = make(scenario).facts()
    return {str(facts["data"]): str(facts["data_checksum"])} if "data_checksum" in facts else {}
