"""Differential privacy for clients: clipped updates, Gaussian noise on their sum, and what that has cost so far."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmomentum.errors import UserError
from fedmomentum.strategies.cohort import BernoulliCohort, Cohort
from fedmomentum.strategies.records import Views
from fedmomentum.strategies.robust import clipped

_ORDERS = (*(1 + k / 10 for k in range(1, 100)), *range(11, 64), 80, 100, 128, 160, 200, 256, 400, 512, 1024)
"""Orders of Renyi divergence of which the best is taken; any gives a valid bound."""


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """``x + (sum_i min(1, S / |D_i|) D_i + N(0, (z S)^2)) / (q N)`` in place of the mean, ``D_i = y_i - x``.

    Each of ``N`` clients takes part on its own with probability ``q``, and adding or removing one of them moves the sum
    by at most ``S``: the Gaussian mechanism, amplified by the sampling. The sum is divided by the *expected* size of
    the cohort, because the actual one tells who was there; a round without anybody is noise alone. Whatever the server
    makes of it, momentum among it, costs nothing more. Measured values that clients report are not covered.

    Args:
        clip: ``S``, largest Euclidean length of a client's update, above 0.
        noise_multiplier: ``z``, standard deviation of the noise in units of ``S``, above 0.
        delta: probability in (0, 1) with which the guarantee may fail; well below one over the number of clients.

    Raises:
        ValueError: a number is out of range.

    Reference: arXiv:1710.06963; with server momentum, arXiv:2009.10031.
    """

    clip: float
    noise_multiplier: float
    delta: float = 1e-5

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("clip", "noise_multiplier"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and above 0, not {getattr(self, name)}")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta must be in (0, 1), not {self.delta}")

    def mean(
        self,
        replies: Sequence[Views],
        sent: Views,
        trained: Collection[str],
        *,
        expected: float,
        rng: np.random.Generator,
    ) -> Views:
        """Give the private mean of the models that came back; what is not trained stays as it was sent.

        Args:
            replies: the models, one a client; there may be none.
            sent: the model that they started from.
            trained: names of the tensors that count, drawn for in this order.
            expected: ``q N``.
            rng: of the noise.
        """
        old = {name: sent[name] for name in trained}
        total: dict[str, NDArray[Any]] = {name: np.zeros(x.shape) for name, x in old.items()}
        for reply in replies:
            short = clipped({name: reply[name].astype(np.float64) for name in old}, old, self.clip)
            for name, x in old.items():
                total[name] += short[name] - x
        spread = self.noise_multiplier * self.clip
        return {
            **sent,
            **{
                name: (x + (total[name] + spread * rng.standard_normal(x.shape)) / expected).astype(x.dtype)
                for name, x in old.items()
            },
        }

    def epsilon(self, *, probability: float, rounds: int) -> float:
        """Give the epsilon that so many rounds have cost at ``delta``, by Renyi differential privacy.

        Args:
            probability: ``q``.
            rounds: at least 0.

        Raises:
            UserError: opacus, whose accountant this is, is not installed.

        Reference: arXiv:1908.10530.
        """
        if rounds == 0:
            return 0.0
        one = np.asarray(_divergences(probability, self.noise_multiplier))
        from opacus.accountants.analysis.rdp import get_privacy_spent

        with warnings.catch_warnings():  # the best order being the last one makes the bound loose, not wrong
            warnings.simplefilter("ignore")
            found, _ = get_privacy_spent(orders=_ORDERS, rdp=rounds * one, delta=self.delta)
        return float(found)


def check(privacy: Privacy, *, who: str, needs_more: bool, others: Sequence[object], cohort: Cohort | None) -> None:
    """Refuse what the guarantee does not cover, and an accountant that is not there.

    Args:
        privacy: what is asked for.
        who: name of the strategy.
        needs_more: whether its step needs more of a round than the mean of the replies.
        others: aggregator, clip_update and quorum.
        cohort: chooses who takes part.

    Raises:
        ValueError: see above.
        UserError: opacus is not installed.
    """
    if needs_more:
        raise ValueError(f"{who} goes by more than the mean of the replies: no privacy goes with it")
    if any(other is not None for other in others):
        raise ValueError("privacy clips and sums every reply itself: leave aggregator, clip_update and quorum out")
    privacy.epsilon(probability=probability(cohort), rounds=1)


def probability(cohort: Cohort | None) -> float:
    """Give the probability with which each node takes part, independently of all others.

    Raises:
        ValueError: the cohort is drawn in another way.
    """
    if not isinstance(cohort, BernoulliCohort) or cohort.redraw:
        raise ValueError("privacy is counted for cohort=BernoulliCohort(probability=q, redraw=False) alone")
    return cohort.probability


@lru_cache(maxsize=64)
def _divergences(probability: float, noise_multiplier: float) -> tuple[float, ...]:
    """Give the Renyi divergences of one round, in the order of ``_ORDERS``."""
    try:
        from opacus.accountants.analysis.rdp import compute_rdp
    except ImportError as error:
        raise UserError(
            "privacy needs opacus, which counts what it costs: pip install 'fedmomentum[privacy]'"
        ) from error
    return tuple(compute_rdp(q=probability, noise_multiplier=noise_multiplier, steps=1, orders=_ORDERS))
