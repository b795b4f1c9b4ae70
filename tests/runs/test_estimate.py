from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedmomentum.runs.estimate import interval, median


@pytest.mark.parametrize("count", [2, 3, 5, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_the_interval_is_scipys_t_interval(count: int, confidence: float) -> None:
    values = np.random.default_rng(count).normal(0.8, 0.05, count)
    low, high = stats.t.interval(confidence, count - 1, values.mean(), stats.sem(values))
    found = interval(values.tolist(), confidence)
    assert (found.mean, found.low, found.high, found.count) == pytest.approx((values.mean(), low, high, count))


@pytest.mark.parametrize("count", [2, 6])
def test_of_differences_it_is_the_paired_t_interval(count: int) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, count))
    paired = stats.ttest_rel(a, b).confidence_interval(0.9)
    found = interval((a - b).tolist(), 0.9)
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high))


def test_it_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = [(e := interval(rng.normal(3, 2, 4).tolist(), 0.8)).low <= 3 <= e.high for _ in range(2000)]
    assert np.mean(held) == pytest.approx(0.8, abs=0.03)  # three standard errors are 0.027


def test_two_values_by_hand() -> None:
    found = interval([1.0, 3.0])  # t with one degree of freedom is Cauchy: its quantile is tan(pi (p - 1/2))
    assert found.mean == 2 and found.half == pytest.approx(math.tan(math.pi * 0.475))


def test_what_cannot_be_told() -> None:
    one = interval([0.5])
    assert one.mean == 0.5 and math.isnan(one.half) and math.isnan(one.low)
    lost = interval([0.5, math.nan, 0.7])
    assert math.isnan(lost.mean) and math.isnan(lost.half) and lost.count == 3
    assert interval([0.5, 0.5]).half == 0
    with pytest.raises(ValueError, match="at least one"):
        interval([])
    for confidence in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            interval([1.0, 2.0], confidence)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], 3.0),
        ([5.0, 1.0, 3.0], 3.0),
        ([4.0, 1.0, 3.0, 2.0], 2.5),
        ([5.0, None, 3.0], 5.0),
        ([None, 1.0], None),
        ([None, None, 1.0], None),
        ([1.0, 2.0, None, None], None),
        ([1.0, 2.0, 3.0, None], 2.5),
        ([1.0, math.nan, 2.0], None),
        ([], None),
    ],
)
def test_median_with_what_never_happened(values: list[float | None], expected: float | None) -> None:
    assert median(values) == expected
