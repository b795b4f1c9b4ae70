"""What clients report beside their models, a column a metric: a block of a thousand clients is no thousand rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress
from typing import Any

import numpy as np
from flwr.app import MetricRecord
from numpy.typing import NDArray

from fedmomentum.strategies.records import filled


@dataclass(frozen=True)
class Reports:
    """Weights and metrics of the clients that one reply stands for.

    Args:
        weights: one a client.
        common: metrics that count alike for all of them: those of a client's own reply, and what a block reports
            outside its table.
        columns: numbers, one a client, of each metric in the table of a block.
    """

    weights: Sequence[float]
    common: Mapping[str, object] = field(default_factory=dict)
    columns: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Give the number of clients."""
        return len(self.weights)

    def rows(self) -> Iterator[tuple[float, dict[str, object]]]:
        """Give weight and metrics of each client."""
        for place, weight in enumerate(self.weights):
            yield weight, {**self.common, **{name: column[place] for name, column in self.columns.items()}}

    def numbers(self, name: str) -> Sequence[float] | None:
        """Give a metric of each client; None where it is not there, or is no number."""
        if name in self.columns:
            return self.columns[name]
        value = self.common.get(name)
        return [value] * len(self) if is_number(value) else None  # type: ignore[list-item]


def is_number(value: object) -> bool:
    """Say whether a value is an integer or a float; a truth value is neither."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def all_numbers(column: Sequence[object]) -> bool:
    """Say whether every entry is an integer or a float: a look at the types that occur, not at each entry."""
    kinds = set(map(type, column))
    return kinds <= _NUMBERS or all(issubclass(kind, int | float) and kind is not bool for kind in kinds)


_NUMBERS = {int, float}


def weights_of(reports: Sequence[Reports], *, uniform: bool = False) -> NDArray[np.float64]:
    """Give the weights of all clients, or a one for each."""
    if uniform:
        return np.ones(sum(map(len, reports)))
    return np.array(list(chain.from_iterable(report.weights for report in reports)), np.float64)


def column_of(reports: Sequence[Reports], name: str) -> NDArray[np.float64] | None:
    """Give a metric of all clients; None where somebody does not report it as a number."""
    found: list[float] = []
    for report in reports:
        if (column := report.numbers(name)) is None:
            return None
        found += column
    return np.array(found, np.float64)


def mean_metrics(reports: Sequence[Reports], *, leave_out: str) -> MetricRecord:
    """Average each metric over the clients that report it, weighted; lists are averaged entry by entry.

    A NaN counts as not reported (a mean of NaN is left only where nobody reports a number), and so does what is a list
    where the first one is a number, or of another length. Where the weights of those who report sum to zero the mean
    is unweighted. Clients are added up one after another in the order given.

    Args:
        reports: weights and metrics of the clients, in the order in which they are added up.
        leave_out: the metric that is the weight itself.
    """
    columns: dict[tuple[str, int | None], list[float]] = {}  # of a list metric: one for each place in it
    lengths: dict[str, int | None] = {}
    seen = 0

    def add(key: tuple[str, int | None], values: Sequence[Any]) -> None:
        column = columns.setdefault(key, [])
        column += [math.nan] * (seen - len(column))
        column += values

    for report in reports:
        if not len(report):
            continue
        for name, value in report.common.items():
            if name == leave_out or not isinstance(value, int | float | list):
                continue
            length = len(value) if isinstance(value, list) else None
            if lengths.setdefault(name, length) != length:
                continue
            for place, number in enumerate(value) if isinstance(value, list) else ((None, value),):
                add((name, place), [number] * len(report))
        for name, column in report.columns.items():
            if name != leave_out and lengths.setdefault(name, None) is None:
                add((name, None), column)
        seen += len(report)
    for key in columns:
        add(key, ())
    weights = list(chain.from_iterable(report.weights for report in reports))
    means = {key: _mean(column, weights) for key, column in columns.items()}
    by_name = {
        name: means[name, None] if length is None else [means[name, place] for place in range(length)]
        for name, length in lengths.items()
    }
    return filled(MetricRecord(), by_name)


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Give the weighted mean of the values that are not NaN, unweighted where their weights are all zero.

    A loop: with a few hundred clients it has ended before numpy, whose code a round finds in no cache, has begun.
    """
    total = mean = 0.0
    for weight in weights:
        total += weight
    if total <= 0.0:
        for value in values:
            mean += value
        mean = mean / len(values) if values else math.nan
    else:
        for value, weight in zip(values, weights, strict=True):
            mean += value * (weight / total)
    if math.isnan(mean) and 0 < sum(known := [not math.isnan(value) for value in values]) < len(values):
        return _mean(list(compress(values, known)), list(compress(weights, known)))
    return mean


def added_up(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the sums over the last axis, added one after another: the bits of a loop over floats, which ``sum`` lacks.

    (numpy's adds in pairs, and Python's compensates from 3.12 on.)
    """
    return np.add.accumulate(numbers, axis=-1)[..., -1] + 0.0  # a loop starts at 0.0, which has no minus sign
