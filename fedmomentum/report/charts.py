"""The curves of a report: each metric over rounds, and over the time and the bytes that those rounds took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, TypeAlias

from fedmomentum.report.curves import Curve, collect
from fedmomentum.report.gather import Arm, Columns
from fedmomentum.report.measured import title_of
from fedmomentum.report.numbers import real

KNOWN = {
    "accuracy": "Accuracy on the central test set",
    "loss": "Loss on the central test set",
    "train_loss": "Training loss, mean over the cohort",
    "client_accuracy": "Accuracy on the clients' own test sets",
    "client_loss": "Loss on the clients' own test sets",
}
"""Metrics that every run may have, in the order of their charts."""

COUNTS = frozenset(
    {
        "round",
        "steps",
        "cohort",
        "replies",
        "failures",
        "bytes_down",
        "bytes_up",
        "simulated_time",
        "seconds",
        "elapsed",
    }
)
"""Columns that say what a round cost: drawn elsewhere."""

CLIENT_COUNTS = frozenset({"round", "client", "num-examples", "steps"})

AXES = {"round": "round", "time": "time (s)", "simulated": "simulated time", "bytes": "bytes sent and received"}

MOST_CURVES = 24
"""Curves in one chart; more cannot be told apart."""
MOST_BANDS = 6
"""Curves that are shown with their bands; of more, the bands would hide the curves."""
MOST_CHARTS = 30
MOST_POINTS = 16_000
"""Points of all charts together, so that the page stays small."""

Points: TypeAlias = list[float]


@dataclass(frozen=True)
class Series:
    """One curve of a chart: the mean over seeds and the band from the lowest to the highest."""

    curve: Curve
    axes: dict[str, Points]
    """For each axis, where each point of the curve stands on it."""
    index: int
    """Of its group among all groups; in charts that :func:`shown` made, of its colour."""


@dataclass(frozen=True)
class Chart:
    """One metric of several groups of arms."""

    key: str
    title: str
    kind: str
    """``metric``, ``probe`` (anything else that was measured) or ``spread`` (of the clients)."""
    series: list[Series]
    band: str = "lowest to highest seed"
    left_out: int = 0

    @property
    def axes(self) -> list[str]:
        """The axes that every curve has."""
        return [axis for axis in AXES if all(axis in series.axes for series in self.series)]


def groups(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    """Join the seeds of each arm, in the order of the arms."""
    found: dict[str, list[Arm]] = {}
    for arm in arms:
        found.setdefault(arm.group, []).append(arm)
    return found


def charts(arms: Sequence[Arm]) -> list[Chart]:
    """Make a chart of every metric that has a value, those of ``KNOWN`` first."""
    keys = dict.fromkeys(key for arm in arms for row in arm_rows(arm) for key in row)
    names = [key for key in KNOWN if key in keys]
    names += [
        key
        for key in keys
        if key not in KNOWN and key not in COUNTS and not key.startswith("seconds_") and key != "arm"
    ]
    made = [_chart(key, arms) for key in names]
    return [chart for chart in made if chart.series][:MOST_CHARTS]


def arm_rows(arm: Arm) -> list[dict[str, Any]]:
    """Give the metric rows of an arm, one a round (the last one that was written), in order."""
    rows = {real(row["round"]): row for row in arm.rows}
    return [rows[number] for number in sorted(rows)]


def _chart(key: str, arms: Sequence[Arm]) -> Chart:
    series = []
    for index, members in enumerate(groups(arms).values()):
        curve, axes = _join(members, key, members[0].group)
        if curve.last:
            series.append(Series(curve, axes, index))
    title = KNOWN.get(key) or title_of(key)
    kind = "metric" if key in KNOWN else "probe"
    return Chart(key, title, kind, series)


def _join(arms: Sequence[Arm], key: str, name: str) -> tuple[Curve, dict[str, Points]]:
    """Take the mean over seeds of a metric, and of each axis, in the rounds in which all of them measured it."""
    runs = [arm_rows(arm) for arm in arms]
    [curve] = collect({f"seed={i}": rows for i, rows in enumerate(runs)}, key)
    axes = {"round": curve.rounds}
    for axis, measure in (("time", _elapsed), ("simulated", _simulated), ("bytes", _traffic)):
        places = [measure(rows) for rows in runs]
        points = [mean([place.get(r, math.nan) for place in places]) for r in curve.rounds]
        if points and all(map(math.isfinite, points)) and points[-1] > 0:
            axes[axis] = points
    return replace(curve, name=name), axes


def mean(values: Sequence[float]) -> float:
    """Give the mean of the values; NaN where one is not finite, or where there is none."""
    return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else math.nan


def _elapsed(rows: Sequence[Mapping[str, Any]]) -> dict[float, float]:
    return {real(row["round"]): real(row.get("elapsed")) for row in rows}


def _simulated(rows: Sequence[Mapping[str, Any]]) -> dict[float, float]:
    if not any("simulated_time" in row for row in rows):
        return {}
    return _sums(rows, [real(row.get("simulated_time", 0.0)) for row in rows])


def _traffic(rows: Sequence[Mapping[str, Any]]) -> dict[float, float]:
    return _sums(rows, [real(row.get("bytes_down", 0.0)) + real(row.get("bytes_up", 0.0)) for row in rows])


def _sums(rows: Sequence[Mapping[str, Any]], amounts: Sequence[float]) -> dict[float, float]:
    return dict(zip((real(row["round"]) for row in rows), accumulate(amounts), strict=True))


def spread_charts(arms: Sequence[Arm]) -> list[Chart]:
    """Make a chart of every column of the clients' rows: the median client of each round.

    Bands go from the 10th to the 90th percentile. The clients of all seeds of an arm count alike.
    """
    keys = dict.fromkeys(key for arm in arms for key in arm.clients if key not in CLIENT_COUNTS)
    made = []
    for key in list(keys)[:MOST_CHARTS]:
        series = [
            Series(curve, {"round": curve.rounds}, index)
            for index, (name, members) in enumerate(groups(arms).items())
            if (curve := _quantiles(name, [arm.clients for arm in members], key)).last
        ]
        title = f"{key.replace('_', ' ').capitalize()} of a client"
        if series:
            made.append(Chart(f"clients-{key}", title, "spread", series, "10th to 90th percentile of the cohort"))
    return made


def shown(drawn: Sequence[Chart], colours: Mapping[int, int]) -> list[Chart]:
    """Keep the curves of the groups that have a colour (group -> colour), and say how many were left out."""
    made = []
    for chart in drawn:
        kept = [replace(series, index=colours[series.index]) for series in chart.series if series.index in colours]
        if kept:
            made.append(replace(chart, series=kept, left_out=len(chart.series) - len(kept)))
    return made


def _quantiles(name: str, tables: Sequence[Columns], key: str) -> Curve:
    import numpy as np

    tables = [table for table in tables if key in table and "round" in table]
    if not tables:
        return Curve(name, [], [], [], [], 0)
    rounds = np.concatenate([np.asarray(table["round"]) for table in tables])
    values = np.concatenate([np.asarray(table[key]) for table in tables])
    fine = np.isfinite(rounds) & np.isfinite(values)
    rounds, values = rounds[fine], values[fine]
    order = np.lexsort((values, rounds))
    values = values[order]
    found, first, counts = np.unique(rounds[order], return_index=True, return_counts=True)

    def quantile(q: float) -> Points:
        """Interpolate between the neighbours of place ``q (n - 1)`` of each round's sorted values."""
        places = first + q * (counts - 1)
        below = np.floor(places).astype(np.int64)
        above = np.minimum(below + 1, first + counts - 1)
        return list((values[below] + (places - below) * (values[above] - values[below])).tolist())

    low, middle, high = (quantile(q) for q in (0.1, 0.5, 0.9))
    return Curve(name, found.tolist(), middle, low, high, int(counts.max(initial=0)))


def thin(values: Sequence[float], most: int) -> list[int]:
    """Choose points that keep a curve's look: the first, the last, the edges of gaps, and each bucket's extremes."""
    count = len(values)
    if count <= most:
        return list(range(count))
    chosen = {0, count - 1}
    buckets = max(1, (most - 2) // 2)
    for b in range(buckets):
        part = range(b * count // buckets, (b + 1) * count // buckets)
        fine = [i for i in part if math.isfinite(values[i])]
        if fine:
            chosen |= {min(fine, key=values.__getitem__), max(fine, key=values.__getitem__)}
        if len(fine) < len(part):
            chosen.add(next(i for i in part if not math.isfinite(values[i])))
    return sorted(chosen)


def as_data(drawn: Sequence[Chart], unit: str = "round") -> list[dict[str, Any]]:
    """Give charts as plain JSON data, of at most about ``MOST_POINTS`` points; what is not finite is null."""
    lines = sum(len(chart.series) for chart in drawn)
    most = max(16, MOST_POINTS // lines) if lines else 0
    return [
        {
            "id": f"chart-{number}",
            "title": chart.title,
            "key": chart.key,
            "bands": MOST_BANDS,
            "axes": {axis: unit if axis == "round" else AXES[axis] for axis in chart.axes},
            "series": [_series(series, most, chart.axes) for series in chart.series],
        }
        for number, chart in enumerate(drawn)
    ]


def _series(series: Series, most: int, axes: Sequence[str]) -> dict[str, Any]:
    curve = series.curve
    kept = thin(curve.mean, most)
    data: dict[str, Any] = {
        "name": curve.name,
        "index": series.index,
        "x": {axis: _short(series.axes[axis], kept) for axis in axes},
        "y": _short(curve.mean, kept),
    }
    if any(low < high for low, high in zip(curve.low, curve.high, strict=True)):
        data |= {"low": _short(curve.low, kept), "high": _short(curve.high, kept)}
    return data


def _short(values: Sequence[float], kept: Sequence[int]) -> list[float | int | None]:
    return [_digits(values[i]) for i in kept]


def _digits(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    if value.is_integer() and abs(value) < 2**53:
        return int(value)
    return float(f"{value:.6g}")
