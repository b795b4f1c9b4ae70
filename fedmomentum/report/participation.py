"""Who took part when, counted from the rows of clients and of failures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fedmomentum.report.gather import Arm
from fedmomentum.report.numbers import real

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_ROWS, MOST_COLUMNS = 120, 200
"""Cells of a heat map; more clients or rounds than that share cells."""
MOST_ROUNDS = 10**9
"""A round beyond it is a mistake in the file."""


@dataclass(frozen=True, eq=False)
class Participation:
    """The cohorts of arms that chose the same clients and lost the same replies.

    Attributes:
        arms: labels of those arms.
        clients: ``[C]`` ids of the clients, in order.
        rounds: number of rounds.
        replied: ``[A, 2]`` pairs (position of the client, round), one a reply that was used, round counted from 0.
        failed: the same, for replies that were not used.
    """

    arms: list[str]
    clients: NDArray[np.int64]
    rounds: int
    replied: NDArray[np.int64]
    failed: NDArray[np.int64]

    @cached_property
    def times_replied(self) -> NDArray[np.int64]:
        """How often each client's reply was used, ``[C]``."""
        return self._times(self.replied)

    @cached_property
    def times_failed(self) -> NDArray[np.int64]:
        """How often each client's reply was not used, ``[C]``."""
        return self._times(self.failed)

    @property
    def bins(self) -> tuple[int, int]:
        """Clients a row and rounds a column of the heat map."""
        return math.ceil(len(self.clients) / MOST_ROWS), math.ceil(self.rounds / MOST_COLUMNS)

    def cells(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Give the cells of the heat map: the share of each that replied, and the share that failed."""
        return self._share(self.replied), self._share(self.failed)

    def _times(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        import numpy as np

        return np.bincount(pairs[:, 0], minlength=len(self.clients))

    def _share(self, pairs: NDArray[np.int64]) -> NDArray[Any]:
        import numpy as np

        tall, wide = self.bins
        rows, columns = math.ceil(len(self.clients) / tall), math.ceil(self.rounds / wide)
        flat = (pairs[:, 0] // tall) * columns + pairs[:, 1] // wide
        counts = np.bincount(flat, minlength=rows * columns).reshape(rows, columns)
        heights = np.minimum(tall, len(self.clients) - tall * np.arange(rows))
        widths = np.minimum(wide, self.rounds - wide * np.arange(columns))
        return np.asarray(counts / np.outer(heights, widths))


def participations(arms: Sequence[Arm]) -> list[Participation]:
    """Count who took part in each arm; arms in which the same happened are one."""
    found: dict[object, Participation] = {}
    for arm in arms:
        counted = _count(arm)
        if counted is None:
            continue
        identity = (
            counted.rounds,
            counted.clients.tobytes(),
            counted.replied.tobytes(),
            counted.failed.tobytes(),
        )
        if identity in found:
            found[identity].arms.append(arm.label)
        else:
            found[identity] = counted
    return list(found.values())


def _count(arm: Arm) -> Participation | None:
    import numpy as np

    replied = _pairs(arm.clients.get("client", ()), arm.clients.get("round", ()))
    failed = _pairs([real(row.get("client")) for row in arm.failures], [real(row.get("round")) for row in arm.failures])
    everything = np.concatenate([replied, failed])
    if not len(everything):
        return None
    seen = np.unique(everything[:, 0])
    population = real(arm.facts.get("clients"))
    # Clients of a deployment have ids of 64 bits; those of a simulation count from 0, and some may never be chosen.
    whole = math.isfinite(population) and seen[0] >= 0 and seen[-1] < population <= 10_000_000
    clients = np.arange(int(population)) if whole else seen
    rounds = int(max([everything[:, 1].max(), *(r for row in arm.rows if (r := real(row["round"])) <= MOST_ROUNDS)]))

    def keys(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.unique(np.searchsorted(clients, pairs[:, 0]) * rounds + pairs[:, 1] - 1)

    lost = keys(failed)
    used = np.setdiff1d(keys(replied), lost, assume_unique=True)
    return Participation([arm.label], clients, rounds, *(np.stack(divmod(k, rounds), axis=1) for k in (used, lost)))


def _pairs(clients: Sequence[float], rounds: Sequence[float]) -> NDArray[np.int64]:
    """Give (client, round) of the rows that have both; a round before the first is none."""
    import numpy as np

    pairs = np.stack([np.asarray(clients, dtype=float), np.asarray(rounds, dtype=float)], axis=1)
    fine = np.isfinite(pairs).all(axis=1) & (np.abs(pairs[:, 0]) < 2.0**63)
    fine &= (pairs[:, 1] >= 1) & (pairs[:, 1] <= MOST_ROUNDS)
    return np.asarray(pairs[fine].astype(np.int64))
