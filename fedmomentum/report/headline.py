"""The numbers that a report begins with: where each arm ended, its best round, and what that cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedmomentum.report.charts import Chart, Points, Series, arm_rows, groups, mean
from fedmomentum.report.gather import Arm
from fedmomentum.report.numbers import real

TARGET = 0.9
"""The cost of an arm is told up to where it reached this fraction of the best that any arm reached."""


@dataclass(frozen=True)
class Point:
    """A value of a curve, and where it stands on every axis."""

    value: float
    low: float
    high: float
    places: dict[str, float]

    @property
    def round(self) -> int:
        """The round in which it was measured."""
        return int(self.places["round"])


@dataclass(frozen=True)
class Line:
    """One group of arms (the seeds of one setting) in numbers; costs are means over the seeds."""

    name: str
    index: int
    seeds: int
    last: Point | None
    best: Point | None
    reached: Point | None
    """Where the target was reached first."""
    diverged: int | None
    """The round in which the metric stopped being finite."""
    rounds: float
    seconds: float
    updates: float
    failures: float
    bytes: float


@dataclass(frozen=True)
class Headline:
    """The lines of all groups, the best first, and the metric that they are about."""

    metric: str
    up: bool
    """Whether more of it is better."""
    target: float
    lines: list[Line]


def headline(arms: Sequence[Arm], drawn: Sequence[Chart]) -> Headline:
    """Sum up arms by the first metric that was measured: accuracy, else a loss, else whatever there is."""
    chart = next(iter(drawn), None)
    up = chart is not None and "loss" not in chart.key and "error" not in chart.key
    series = {s.index: s for s in chart.series} if chart else {}
    best = {index: point for index, s in series.items() if (point := _best(s, up))}
    target = _target([point.value for point in best.values()], up)
    lines = []
    for index, (name, members) in enumerate(groups(arms).items()):
        s = series.get(index)
        curve = s.curve if s else None
        lines.append(
            Line(
                name=name,
                index=index,
                seeds=len(members),
                last=_at(s, _last(curve.mean)) if s and curve else None,
                best=best.get(index),
                reached=_first(s, target, up) if s else None,
                diverged=int(curve.rounds[_last(curve.mean) + 1]) if curve and curve.diverged else None,
                rounds=mean([max((real(row["round"]) for row in arm.rows), default=0.0) for arm in members]),
                seconds=mean([_elapsed(arm) for arm in members]),
                updates=mean([total(arm, "replies") for arm in members]),
                failures=mean([total(arm, "failures") for arm in members]),
                bytes=mean([total(arm, "bytes_down") + total(arm, "bytes_up") for arm in members]),
            )
        )
    return Headline(chart.key if chart else "", up, target, sorted(lines, key=lambda line: _rank(line, up)))


def total(arm: Arm, key: str) -> float:
    """Sum a column over the rounds of an arm; what is not finite counts as nothing."""
    return math.fsum(value for row in arm_rows(arm) if math.isfinite(value := real(row.get(key))))


def _elapsed(arm: Arm) -> float:
    return max((value for row in arm.rows if math.isfinite(value := real(row.get("elapsed")))), default=0.0)


def _rank(line: Line, up: bool) -> tuple[bool, bool, float]:
    if line.last is None:
        return (True, True, 0.0)
    return (line.diverged is not None, False, -line.last.value if up else line.last.value)


def _target(values: Sequence[float], up: bool) -> float:
    """Give 90 % of the best value; of a loss that is above zero, the best over 90 %. NaN where that says nothing."""
    best = max(values, default=math.nan) if up else min(values, default=math.nan)
    if not best > 0:
        return math.nan
    return best * TARGET if up else best / TARGET


def _at(series: Series, i: int) -> Point:
    curve = series.curve
    return Point(curve.mean[i], curve.low[i], curve.high[i], {axis: points[i] for axis, points in series.axes.items()})


def _last(values: Points) -> int:
    return max(i for i, value in enumerate(values) if math.isfinite(value))


def _best(series: Series, up: bool) -> Point | None:
    fine = [i for i, value in enumerate(series.curve.mean) if math.isfinite(value)]
    choose = max if up else min
    return _at(series, choose(fine, key=series.curve.mean.__getitem__)) if fine else None


def _first(series: Series, target: float, up: bool) -> Point | None:
    values = series.curve.mean
    hit = (i for i, value in enumerate(values) if (value >= target if up else value <= target))
    return next((_at(series, i) for i in hit), None)
