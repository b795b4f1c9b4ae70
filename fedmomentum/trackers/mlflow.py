"""MLflow: one run an arm, in a store beside the run folders."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fedmomentum.events import End, RoundEnd, Start
from fedmomentum.runs.folder import RESOLVED, SCENARIO
from fedmomentum.trackers.facts import scalars, settings

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

PERIOD = 1.0
"""Seconds between two writes: each is a transaction of the store, and a round may take a millisecond."""
MOST_METRICS, MOST_PARAMS, LONGEST_VALUE = 1000, 100, 6000
"""What MLflow takes in one batch, and as one parameter."""
RUN, ARM, MESSAGE = "fedmomentum.run", "fedmomentum.arm", "fedmomentum.message"
"""Tags by which a run is found again, and why it ended."""
OUTCOMES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class MLflowTracker:
    """Write settings as parameters, numbers of every round as metrics, and the scenario as an artifact.

    An arm that is resumed goes on in the MLflow run that it began.
    """

    def __init__(self, folder: Path, *, uri: str | None = None, experiment: str | None = None) -> None:
        """Take the run folder.

        Args:
            folder: the run folder.
            uri: of a tracking server or store; by default a store of files that all runs share: ``mlflow.db`` and
                ``mlflow-artifacts/`` in the folder of all runs.
            experiment: name; by default the scenario's.
        """
        # MLflow reports its use to its makers unless it is told not to; a user's own choice stands.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._folder = folder
        self._out = folder.resolve().parent.parent
        self._uri = uri
        self._experiment = experiment
        self._client: MlflowClient | None = None
        self._runs: dict[str, str] = {}
        self._waiting: dict[str, list[Metric]] = {}
        self._written = 0.0

    def start(self, event: Start) -> None:
        """Begin the MLflow run of an arm, or go on with it."""
        client = self._open()
        identity = {RUN: f"{self._folder.parent.name}/{self._folder.name}", ARM: event.arm}
        experiment = self._experiment or event.name
        self._runs[event.arm], new = self._run(client, experiment, identity, event)
        self._waiting[event.arm] = []
        if new:
            self._describe(client, event)

    def round_end(self, event: RoundEnd) -> None:
        """Keep the numbers of a round, and write them if the last time was a while ago."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting[event.arm] += [Metric(k, v, now, event.round) for k, v in scalars(event).items()]
        if time.monotonic() - self._written >= PERIOD:
            self._write(event.arm)

    def end(self, event: End) -> None:
        """Write what is left and say what became of the arm."""
        if event.arm not in self._runs:
            return
        self._write(event.arm)
        client, run = self._open(), self._runs.pop(event.arm)
        if event.message:
            client.set_tag(run, MESSAGE, event.message[:LONGEST_VALUE])
        client.set_terminated(run, OUTCOMES.get(event.status, "FAILED"))

    def _open(self) -> MlflowClient:
        if self._client is None:
            from mlflow.tracking import MlflowClient

            logging.getLogger("mlflow.store.db").setLevel(logging.WARNING)  # it tells of every new store
            self._client = MlflowClient(self._uri or f"sqlite:///{(self._out / 'mlflow.db').as_posix()}")
        return self._client

    def _run(self, client: MlflowClient, name: str, identity: dict[str, str], event: Start) -> tuple[str, bool]:
        """Give the id of the arm's run, and whether it is new."""
        found = client.get_experiment_by_name(name)
        if found is None:
            artifacts = None if self._uri else (self._out / "mlflow-artifacts").as_uri()
            experiment: str = client.create_experiment(name, artifact_location=artifacts)
        else:
            experiment = found.experiment_id
        if event.first_round > 1:
            wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in identity.items() if value)
            for run in client.search_runs([experiment], wanted):
                if run.data.tags.get(ARM, "") == event.arm:
                    client.update_run(run.info.run_id, status="RUNNING")
                    if MESSAGE in run.data.tags:
                        client.delete_tag(run.info.run_id, MESSAGE)
                    return run.info.run_id, False
        title = f"{self._folder.name} {event.arm}".strip()
        return client.create_run(experiment, tags=identity, run_name=title).info.run_id, True

    def _describe(self, client: MlflowClient, event: Start) -> None:
        from mlflow.entities import Param

        run = self._runs[event.arm]
        facts = {**settings(self._folder, event.arm), **event.facts}
        params = [Param(key, str(value)[:LONGEST_VALUE]) for key, value in facts.items()]
        for first in range(0, len(params), MOST_PARAMS):
            client.log_batch(run, params=params[first : first + MOST_PARAMS])
        for name in (SCENARIO, RESOLVED):
            if (self._folder / name).exists():
                client.log_artifact(run, str(self._folder / name))

    def _write(self, arm: str) -> None:
        waiting, self._waiting[arm] = self._waiting[arm], []
        for first in range(0, len(waiting), MOST_METRICS):
            self._open().log_batch(self._runs[arm], metrics=waiting[first : first + MOST_METRICS])
        self._written = time.monotonic()
