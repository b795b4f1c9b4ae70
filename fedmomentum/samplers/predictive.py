"""How far predicted probabilities can be trusted: likelihood, calibration, entropy; and which draws to keep."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


class Reliability(NamedTuple):
    """Predictions in bins of equal width of their confidence, the largest probability: three columns ``[bins]``.

    Args:
        confidence: mean of a bin; NaN where it is empty.
        accuracy: share of a bin that is right; NaN where it is empty.
        number: how many.
    """

    confidence: Tensor
    accuracy: Tensor
    number: Tensor


def reliability(probabilities: Tensor, labels: Tensor, *, bins: int = 15) -> Reliability:
    """Give accuracy against confidence.

    Args:
        probabilities: ``[n, classes]``, rows summing to one.
        labels: ``[n]``.
        bins: of equal width over (0, 1].
    """
    confidence, guess = probabilities.double().max(1)
    right = (guess == labels).double()
    where = (confidence * bins).ceil().long().clamp(1, bins) - 1
    zero = torch.zeros(bins, dtype=torch.float64)
    count = zero.index_add(0, where, torch.ones_like(confidence))
    return Reliability(zero.index_add(0, where, confidence) / count, zero.index_add(0, where, right) / count, count)


def calibration_error(of: Reliability) -> float:
    """Give the expected calibration error ``sum_b n_b / n |accuracy_b - confidence_b|``. arXiv:1706.04599."""
    gap = (of.accuracy - of.confidence).abs().nan_to_num(0.0)
    return float((of.number * gap).sum() / of.number.sum())


def negative_log_likelihood(probabilities: Tensor, labels: Tensor) -> float:
    """Give the mean of ``-log p(label)`` in nats; a probability of zero counts as the smallest positive number."""
    chosen = probabilities.double().gather(1, labels.unsqueeze(1))
    return float(-chosen.clamp(min=torch.finfo(torch.float64).tiny).log().mean())


def entropy(probabilities: Tensor) -> float:
    """Give the mean of ``-sum p log p`` in nats: how unsure the predictions are."""
    return float(torch.special.entr(probabilities.double()).sum(1).mean())


@dataclass(frozen=True)
class Schedule:
    """Which rounds of a chain are kept: after a burn-in, one in so many, and no more than a limit at a time.

    Where the limit is passed, every other draw goes and one in twice as many is kept from then on: what is kept stays
    evenly spread over the rounds, and is a function of their number alone.

    Args:
        burn_in: rounds at the start of which none is kept.
        every: keep one in so many.
        most: draws at the most, at least 2.
    """

    burn_in: int
    every: int
    most: int

    def due(self, server_round: int) -> bool:
        """Say whether the model of a round is a draw to keep."""
        past = server_round - self.burn_in
        return past > 0 and past % self.every == 0

    def sparser(self) -> Schedule:
        """Give the schedule that keeps half as many."""
        return replace(self, every=2 * self.every)
