"""The listener that writes a run down."""

from __future__ import annotations

import time
from dataclasses import asdict

from fedmomentum.events import End, RoundEnd, Start
from fedmomentum.runs.atomic import append_columns, append_rows, keep_rows
from fedmomentum.runs.folder import CLIENTS, FAILURES, METRICS, RunFolder

STATUS_PERIOD = 1.0
"""Seconds between two writes of ``status.json``: it is forced to disk, and a round may take a millisecond."""


class Recorder:
    """Write the rows of a run as they come, one write a file and round; events of an arm go into the arm's folder."""

    def __init__(self, folder: RunFolder) -> None:
        """Take the folder of the run, or of one arm."""
        self._folder = folder
        self._arms: dict[str, RunFolder] = {}
        self._written = 0.0

    def start(self, event: Start) -> None:
        """Open the arm; rows of rounds that are about to be done again (after a resume) are dropped."""
        folder = self._arms[event.arm] = self._folder.arm(event.arm)
        for table in (METRICS, CLIENTS, FAILURES):
            keep_rows(folder.path / table, lambda row: event.first_round > 1 and row["round"] < event.first_round)
        folder.set_status(
            "running", rounds=event.rounds, rounds_done=event.first_round - 1, facts=dict(event.facts) or None
        )
        self._written = time.monotonic()

    def round_end(self, event: RoundEnd) -> None:
        """Append the round's row, its clients' rows and its failures."""
        folder = self._arms[event.arm]
        row: dict[str, object] = {"round": event.round, **event.metrics}
        if event.seconds_by_phase:
            row |= {f"seconds_{phase}": seconds for phase, seconds in event.seconds_by_phase.items()}
        append_rows(folder.path / METRICS, [row])
        append_columns(folder.path / CLIENTS, {"round": event.round}, event.clients)
        append_rows(folder.path / FAILURES, ({"round": event.round, **asdict(failure)} for failure in event.failures))
        if time.monotonic() - self._written >= STATUS_PERIOD:
            folder.set_status(rounds_done=event.round)
            self._written = time.monotonic()

    def end(self, event: End) -> None:
        """Write down what became of the arm."""
        folder = self._arms.get(event.arm) or self._folder.arm(event.arm)
        folder.set_status(event.status, rounds_done=event.rounds_done, message=event.message or None)
