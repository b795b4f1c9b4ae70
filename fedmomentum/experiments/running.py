"""One run of a scenario that is an experiment on this machine: no clients, no server, no Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

from fedmomentum.course import Course, Result, Rows
from fedmomentum.events import End, RoundEnd, Start
from fedmomentum.experiments import kind_of
from fedmomentum.experiments.experiment import Drawn, Experiment, Resumable
from fedmomentum.runs import load_run
from fedmomentum.runs.atomic import NotWrittenError
from fedmomentum.runs.checkpoint import latest_checkpoint, save_checkpoint
from fedmomentum.runs.findings import read_findings, write_findings

if TYPE_CHECKING:
    from fedmomentum.runs import RunFolder
    from fedmomentum.scenario import Arm


class Experimenting(Course):
    """Runs the experiment of each arm in this process, one after another."""

    experiments: dict[str, Experiment]

    def go(self) -> Result:
        """Run every arm on one thread: sums depend on how many there are, and an experiment is small."""
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return super().go()
        finally:
            torch.set_num_threads(threads)

    def prepare(self) -> Mapping[str, str]:
        """Make every experiment."""
        self.experiments = {arm.name: kind_of(arm.scenario).make(arm.scenario) for arm in self.loaded.arms}
        facts = [experiment.facts() for experiment in self.experiments.values()]
        return {str(f["data"]): str(f["data_checksum"]) for f in facts if "data_checksum" in f}

    def run_arm(self, arm: Arm) -> None:
        """Run an arm; of one that was stopped, what is left of it, or all of it where it keeps no checkpoints."""
        folder, experiment = self.folder.arm(arm.name), self.experiments[arm.name]
        rows = self.result.arms.setdefault(arm.name, [])
        first = self._go_on(folder, experiment, rows)
        if first > experiment.steps:
            self.result.findings[arm.name] = list(read_findings(folder.path))  # type: ignore[arg-type]
            return
        listeners = [*self.listeners, Rows(rows)]
        before = float(rows[-1].get("elapsed", 0.0)) if rows else 0.0
        facts = {key: value for key, value in experiment.facts().items() if key != "data_checksum"}
        for listener in listeners:
            listener.start(Start(self.result.name, experiment.steps, max(1, first), arm.name, facts))
        status, message = "failed", ""
        try:
            began = last = time.perf_counter()
            for row in experiment.rows():
                now = time.perf_counter()
                metrics = {**row, "seconds": now - last, "elapsed": before + now - began}
                last = now
                step = int(row["round"])
                for listener in listeners:
                    listener.round_end(RoundEnd(step, experiment.steps, metrics, arm=arm.name))
                self._keep(folder, arm, experiment, metrics)
            experiment.save(folder.path)
            found = experiment.findings()
            write_findings(folder.path, found)
            self.result.findings[arm.name] = [dict(finding) for finding in found]
            status = "finished"
        except KeyboardInterrupt:
            status, message = "interrupted", "stopped by a signal"
            raise
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            raise
        finally:
            done = max((int(row["round"]) for row in rows), default=0)
            lenient = suppress(NotWrittenError) if status == "failed" else nullcontext()
            for listener in listeners:
                with lenient:
                    listener.end(End(status, done, arm.name, message))

    def _go_on(self, folder: RunFolder, experiment: Experiment, rows: list[dict[str, Any]]) -> int:
        """Set an experiment to where it was, where the run is gone on with; give the first step that is to be done."""
        if self.resumed is None:
            return 0
        done = load_run(folder.path)
        if done.status.get("status") == "finished" and done.metrics and done.metrics[-1]["round"] == experiment.steps:
            rows += done.metrics
            return experiment.steps + 1
        found = latest_checkpoint(folder.path) if isinstance(experiment, Resumable) else None
        if found is None or found[0] > experiment.steps:
            return 0
        assert isinstance(experiment, Resumable)
        experiment.load_state_dict(found[1]["experiment"])
        rows += [row for row in done.metrics if row["round"] <= found[0]]
        return found[0] + 1

    def _keep(self, folder: RunFolder, arm: Arm, experiment: Experiment, row: Mapping[str, float]) -> None:
        """Write a checkpoint where one is due, and stop where that was asked."""
        step, last = int(row["round"]), row["round"] >= experiment.steps
        settings = getattr(arm.scenario, "checkpoint", None)
        due = settings is not None and bool(settings.every) and step > 0 and step % settings.every == 0
        if isinstance(experiment, Resumable) and settings is not None and (due or (self.stop.asked and not last)):
            save_checkpoint(folder.path, step, {"experiment": experiment.state_dict()}, keep=settings.keep)
        if self.stop.asked and not last:
            raise KeyboardInterrupt

    def draw(self) -> None:
        """Draw all arms that came to their end."""
        arms = {
            arm.name: Drawn(arm.scenario, self.folder.arm(arm.name).path, self.result.arms[arm.name])
            for arm in self.loaded.arms
            if self.folder.arm(arm.name).status().get("status") == "finished"
            or (arm.name == "" and self.result.status == "finished")
        }
        if arms and self.pictures:
            question = self.loaded.scenario.question or self.result.name
            kind_of(self.loaded.scenario).draw(arms, self.folder.plots, question)
