"""What has happened so far in each arm, and the plainest way to tell: one line an evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TextIO

from fedmomentum.events import End, RoundEnd, Start
from fedmomentum.report.numbers import duration, number, rate


@dataclass
class ArmProgress:
    """How far one arm has come."""

    name: str
    status: str = "waiting"
    rounds: int = 0
    done: int = 0
    first: int = 1
    replies: int = 0
    failures: int = 0
    seconds: float = 0.0
    """Wall-clock time since the arm's start, without rounds that an earlier process did."""
    ended: float = 0.0
    """When the last round ended, by the run's own clock: it may be told of later, together with the next one."""
    warm: tuple[int, int, float] = (0, 0, 0.0)
    """Rounds, replies and that time at the end of the first round here, in which workers start."""
    latest: dict[str, float] = field(default_factory=dict)
    """The last value of every metric."""
    accuracies: list[float] = field(default_factory=list)

    @property
    def pace(self) -> tuple[int, int, float]:
        """Rounds, replies and seconds to judge the speed by: all here but the first round, once there is a second."""
        rounds, replies, ended = self.warm
        here = self.done - self.first + 1
        if here > rounds > 0:
            return here - rounds, self.replies - replies, self.ended - ended
        return here, self.replies, self.seconds

    @property
    def rate(self) -> float | None:
        """Client updates a second."""
        _, replies, seconds = self.pace
        return replies / seconds if replies and seconds > 0 else None

    @property
    def remaining(self) -> float | None:
        """Seconds to the end at that pace."""
        rounds, _, seconds = self.pace
        return (self.rounds - self.done) * seconds / rounds if rounds > 0 else None


class Progress:
    """A listener that keeps the state of every arm and leaves showing it to its kinds; use it as a context."""

    def __init__(self, arms: Iterable[str] = (), *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the names of the arms that will run, where they are known."""
        self.arms = {name: ArmProgress(name) for name in arms}
        self.facts: Mapping[str, object] = {}
        self._clock = clock
        self._began = 0.0

    def start(self, event: Start) -> None:
        """Note that an arm begins."""
        arm = self.arms.setdefault(event.arm, ArmProgress(event.arm))
        arm.status, arm.rounds, arm.first, arm.done = "running", event.rounds, event.first_round, event.first_round - 1
        self.facts = event.facts
        self._began = self._clock()

    def round_end(self, event: RoundEnd) -> None:
        """Note what a round gave."""
        arm = self.arms[event.arm]
        arm.done = event.round
        arm.rounds = event.rounds
        arm.seconds = self._clock() - self._began
        arm.ended = event.metrics.get("elapsed", arm.seconds)
        arm.replies += int(event.metrics.get("replies", 0))
        arm.failures += int(event.metrics.get("failures", 0))
        if arm.done == arm.first:
            arm.warm = (1, arm.replies, arm.ended)
        arm.latest.update(event.metrics)
        if "accuracy" in event.metrics:
            arm.accuracies.append(event.metrics["accuracy"])

    def end(self, event: End) -> None:
        """Note what became of an arm."""
        arm = self.arms.setdefault(event.arm, ArmProgress(event.arm))
        arm.status = event.status
        arm.seconds = self._clock() - self._began

    def __enter__(self) -> Self:
        """Begin to show."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""


class Lines(Progress):
    """A plain line for each evaluation and for the last round, for log files and pipes."""

    def __init__(
        self, stream: TextIO, arms: Iterable[str] = (), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the stream to write to."""
        super().__init__(arms, clock=clock)
        self._stream = stream

    def round_end(self, event: RoundEnd) -> None:
        """Write a line if the round was evaluated or is the last one."""
        super().round_end(event)
        evaluated = event.metrics.keys() & {"accuracy", "loss"}
        if not evaluated and event.round < event.rounds:
            return
        arm = self.arms[event.arm]
        words = [f"round {event.round}/{event.rounds}"]
        words += [f"{key} {number(event.metrics[key])}" for key in ("accuracy", "loss") if key in event.metrics]
        if "train_loss" in event.metrics and not evaluated:
            words.append(f"train loss {number(event.metrics['train_loss'])}")
        if failures := int(event.metrics.get("failures", 0)):
            words.append(f"{failures} failed")
        if arm.rate is not None:
            words.append(f"{rate(arm.rate)} clients/s")
        if arm.remaining:
            words.append(f"ETA {duration(arm.remaining)}")
        print("  ".join([event.arm, *words] if event.arm else words), file=self._stream, flush=True)
