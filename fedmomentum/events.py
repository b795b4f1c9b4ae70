"""What a run tells those who watch it: the progress panel, the run folder, a tracker.

Plain data, no heavy imports; the round loop emits, listeners never change a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Failure:
    """One client whose reply was not used in a round, and why."""

    client: int
    reason: str
    kind: str = "error"
    """``error`` (its code raised), ``rejected`` (a bad reply), ``dropout``, ``late`` or ``lost`` (its worker died)."""


@dataclass(frozen=True)
class Span:
    """What a process did from when to when."""

    name: str
    began: float
    """Seconds since 1970, by the clock of its machine."""
    seconds: float
    host: str = ""
    """Its machine; empty for the process that runs the rounds."""
    process: int = 0
    clients: int = 0
    """How many it worked on."""


@dataclass(frozen=True)
class Start:
    """A run begins (or goes on after ``first_round - 1`` finished rounds)."""

    name: str
    rounds: int
    first_round: int = 1
    arm: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    """What the engine chose and found: model size, clients, vectorize, block size, workers, device."""


@dataclass(frozen=True)
class RoundEnd:
    """One round is done. ``metrics`` is the row of ``metrics.jsonl``; ``clients`` has one equal-length column a key.

    Keys of ``metrics``: ``round``; ``accuracy`` and ``loss`` on the central test set where it was evaluated;
    ``train_loss`` and other means over the cohort; ``cohort``, ``replies``, ``failures``; ``bytes_down``,
    ``bytes_up``; ``seconds`` (this round) and ``elapsed`` (since the start). ``seconds_by_phase`` splits the round; an
    evaluation that went on beside the next round counts there as long as the round loop waited for it.
    """

    round: int
    rounds: int
    metrics: Mapping[str, float]
    clients: Mapping[str, Sequence[float]] = field(default_factory=dict)
    failures: Sequence[Failure] = ()
    seconds_by_phase: Mapping[str, float] = field(default_factory=dict)
    arm: str = ""
    spans: Sequence[Span] = ()
    """What this process and the workers did in the round, and when."""


@dataclass(frozen=True)
class End:
    """A run has ended: ``status`` is ``finished``, ``interrupted`` or ``failed``."""

    status: str
    rounds_done: int
    arm: str = ""
    message: str = ""


class Listener(Protocol):
    """Anything that watches a run."""

    def start(self, event: Start) -> None:
        """Hear that a run (one arm of it) begins."""

    def round_end(self, event: RoundEnd) -> None:
        """Hear that a round is done."""

    def end(self, event: End) -> None:
        """Hear that a run (one arm of it) has ended."""
