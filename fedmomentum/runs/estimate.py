"""What a few seeds say about all seeds: means with intervals, and medians where some never came to an end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its confidence interval.

    Attributes:
        mean: NaN where one of the values is: a seed that diverged is never averaged away.
        half: half the width of the interval; NaN where fewer than two values, or not all finite, tell no spread.
        count: values.
    """

    mean: float
    half: float
    count: int

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half


def interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Give the mean and Student's t interval, ``mean +- t_{(1 + c) / 2, n - 1} s / sqrt n``.

    It is exact for independent normal values of unknown spread; of differences of runs that share their seeds it is the
    paired t interval.

    Args:
        values: one a seed, finite or NaN.
        confidence: c, in (0, 1).

    Raises:
        ValueError: there are no values, or the confidence is not between 0 and 1.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence is between 0 and 1, not {confidence}")
    count = len(values)
    if not all(map(math.isfinite, values)):
        return Estimate(math.nan, math.nan, count)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, math.nan, 1)
    from scipy.special import stdtrit

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Estimate(mean, float(stdtrit(count - 1, (1 + confidence) / 2)) * deviation / math.sqrt(count), count)


def median(values: Sequence[float | None]) -> float | None:
    """Give the median of times to an event, where None is one that did not happen: later than any other.

    Unlike a mean over those that got there, it does not reward a method for its seeds that never did.

    Returns:
        The median, or None where it falls among those that are None, where a value is NaN, or where there are none.
    """
    if any(value is not None and math.isnan(value) for value in values):
        return None
    ordered = sorted(math.inf if value is None else value for value in values)
    if not ordered:
        return None
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return middle if math.isfinite(middle) else None
