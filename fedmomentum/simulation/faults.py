"""Clients that do not answer, or answer late: all drawn from named streams, so a seed fixes who and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedmomentum.events import Failure
from fedmomentum.streams import stream


@dataclass(frozen=True)
class Stragglers:
    """Clients have speeds, and a round has a deadline.

    A client of speed ``s`` that plans ``w`` steps needs the time ``w / s``, in units of the time that a client of speed
    1 needs for the median plan of the cohort. Speeds are log-normal around 1 with deviation ``sigma`` of the logarithm,
    fixed for each client.

    Args:
        deadline: time after which the server stops waiting; None waits for ever.
        late: ``drop`` what comes late, or accept ``partial`` work: the fraction of its steps that fits before the
            deadline.
    """

    sigma: float = 0.5
    deadline: float | None = 2.0
    late: Literal["drop", "partial"] = "drop"
    seed: int = 0

    def speed(self, client: int) -> float:
        """Give the speed of a client: the same in every round."""
        return float(np.exp(self.sigma * stream(self.seed, "speed", client=client).standard_normal()))

    def times(self, clients: Sequence[int], work: Sequence[float]) -> NDArray[np.float64]:
        """Give the time that each client of a cohort needs."""
        unit = float(np.median(np.asarray(work, dtype=np.float64))) if len(work) else 1.0
        speeds = np.array([self.speed(client) for client in clients])
        return np.asarray(work, dtype=np.float64) / (max(unit, 1e-300) * speeds)


@dataclass(frozen=True)
class Outcome:
    """Who works in a round, with what fraction of its plan, and who does not answer."""

    clients: tuple[int, ...]
    effort: dict[int, float]
    failures: tuple[Failure, ...]
    duration: float | None = None
    """Simulated time of the round in units of the median client's; None without stragglers."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong in a federation, by chance or by a trace.

    Args:
        dropout: probability, for each chosen client and round, that it never answers.
        trace: round -> clients that do not answer in it; adds to ``dropout``.
        stragglers: speeds and a deadline.
        seed: of the dropouts.
    """

    dropout: float = 0.0
    trace: Mapping[int, frozenset[int]] | None = None
    stragglers: Stragglers | None = None
    seed: int = 0

    @property
    def none(self) -> bool:
        """Say whether nothing ever goes wrong."""
        return not self.dropout and not self.trace and self.stragglers is None

    def outcome(self, round: int, clients: Sequence[int], work: Sequence[float]) -> Outcome:
        """Give what becomes of the chosen clients of a round; ``work`` is each one's planned number of steps."""
        if self.none:
            return Outcome(tuple(clients), {}, ())
        failures: list[Failure] = []
        absent = self.trace.get(round, frozenset()) if self.trace else frozenset()
        kept: list[int] = []
        plans: list[float] = []
        for client, steps in zip(clients, work, strict=True):
            if client in absent:
                failures.append(Failure(client, "did not answer (trace)", "dropout"))
            elif self.dropout and stream(self.seed, "dropout", round=round, client=client).random() < self.dropout:
                failures.append(Failure(client, "did not answer", "dropout"))
            else:
                kept.append(client)
                plans.append(steps)
        if self.stragglers is None or not kept:
            return Outcome(tuple(kept), {}, tuple(failures))
        times, deadline = self.stragglers.times(kept, plans), self.stragglers.deadline
        if deadline is None:
            return Outcome(tuple(kept), {}, tuple(failures), float(times.max()))
        effort: dict[int, float] = {}
        on_time: list[int] = []
        for client, steps, time in zip(kept, plans, times, strict=True):
            fraction = deadline / time
            if fraction >= 1.0:
                on_time.append(client)
            elif self.stragglers.late == "partial" and int(steps * fraction) >= 1:
                on_time.append(client)
                effort[client] = float(fraction)
            else:
                failures.append(Failure(client, f"needs {time:.2f} rounds' time, the deadline is {deadline:g}", "late"))
        return Outcome(tuple(on_time), effort, tuple(failures), float(min(deadline, times.max())))
