"""Rounds are told in their order, each when its evaluation is there, which may go on beside the next round."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from flwr.app import ArrayRecord

from fedmomentum.events import Failure, Listener, RoundEnd, Span

AfterRound = Callable[[int, ArrayRecord], None]


class Pending(Protocol):
    """An evaluation that goes on elsewhere."""

    def result(self) -> tuple[Mapping[str, float], Sequence[Span]]:
        """Wait for it; give its metrics, and what was done for them and when."""


Evaluation = Mapping[str, float] | Pending


class Clock:
    """Splits a round's time by phase."""

    def __init__(self) -> None:
        """Start now."""
        self.phases: dict[str, float] = {}
        self.spans: list[Span] = []
        self.began = self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Give what has passed since the last lap to a phase."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self.phases[phase] = self.phases.get(phase, 0.0) + seconds
        self.spans.append(Span(phase, time.time() - seconds, seconds, process=os.getpid()))

    def split(self, phase: str, parts: Mapping[str, float]) -> None:
        """Take parts out of a phase that are known on their own."""
        for part, seconds in parts.items():
            self.phases[part] = self.phases.get(part, 0.0) + seconds
            self.phases[phase] -= seconds

    def skip(self) -> None:
        """Leave what has passed since the last lap out of this round."""
        now = time.perf_counter()
        self.began += now - self._last
        self._last = now

    @property
    def seconds(self) -> float:
        """Give the seconds of this round so far."""
        return time.perf_counter() - self.began


@dataclass
class Done:
    """A round that is done but for its evaluation: the row without it, and what else is to be told."""

    round: int
    arrays: ArrayRecord | None
    """The model; None where nobody will ask for it any more."""
    evaluation: Evaluation | None
    clock: Clock
    row: dict[str, float]
    tail: dict[str, float]
    """What comes behind the metrics of the evaluation in the row."""
    clients: dict[str, list[float]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


class Teller:
    """Tells of rounds in their order, and keeps one that waits for its evaluation.

    Args:
        rounds: of the whole run.
        listeners: hear of each round.
        arm: its name.
        after_round: called with a round and its model when it was told before anything else began.
    """

    def __init__(self, rounds: int, listeners: Sequence[Listener], arm: str, after_round: AfterRound | None) -> None:
        """Begin with nothing told."""
        self.rounds, self.listeners, self.arm, self.after_round = rounds, listeners, arm, after_round
        self.rows: list[dict[str, float]] = []
        self.failures: list[tuple[int, Failure]] = []
        self._waiting: Done | None = None
        self._late: dict[str, float] = {}

    def take(self, done: Done, *, settled: bool) -> None:
        """Take a round: tell of it now, or when its evaluation, if that goes on elsewhere, is asked for."""
        done.clock.phases.update(self._late)
        self._late = {}
        if settled or done.evaluation is None or isinstance(done.evaluation, Mapping):
            self._tell(done)
            self._after(done)
        else:
            done.arrays = None  # the next round makes another, and a large one is not kept twice
            self._waiting = done

    def catch_up(self) -> None:
        """Tell of the round that waits for its evaluation, if there is one."""
        if (done := self._waiting) is not None:
            self._waiting = None
            self._tell(done)

    def rescue(self) -> None:
        """Tell what can still be told: a round is done, whatever befell the one after it."""
        with suppress(Exception):
            self.catch_up()

    def _tell(self, done: Done) -> None:
        found: Mapping[str, float] = {}
        spans: Sequence[Span] = ()
        if isinstance(done.evaluation, Mapping):
            found = done.evaluation
        elif done.evaluation is not None:
            began = time.perf_counter()
            found, spans = done.evaluation.result()
            waited = time.perf_counter() - began
            done.clock.phases["evaluate"] = done.clock.phases.get("evaluate", 0.0) + waited
            done.tail["seconds"] += waited
        row = {**done.row, **found, **done.tail}
        self.rows.append(row)
        self.failures += [(done.round, failure) for failure in done.failures]
        event = RoundEnd(
            round=done.round,
            rounds=self.rounds,
            metrics=row,
            clients=done.clients,
            failures=tuple(done.failures),
            seconds_by_phase=done.clock.phases,
            arm=self.arm,
            spans=(*done.clock.spans, *spans),
        )
        for listener in self.listeners:
            listener.round_end(event)

    def _after(self, done: Done) -> None:
        if self.after_round is not None and done.round and done.arrays is not None:
            # after the row is told, so that a kill between the two repeats a round instead of losing its row; the time
            # it takes goes with the next row
            clock = Clock()
            self.after_round(done.round, done.arrays)
            clock.lap("checkpoint")
            self._late = clock.phases
