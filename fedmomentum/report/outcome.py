"""The pictures of what a run measured: over rounds, over what was sent, over a setting that its arms differ in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmomentum.report.comparison import draw_comparison
from fedmomentum.report.curves import Curve, Rows, draw_curves, draw_metric, without_seed
from fedmomentum.runs import Run
from fedmomentum.runs.compare import compare

if TYPE_CHECKING:
    from fedmomentum.scenario import LoadedScenario

METRICS = ("accuracy", "loss", "lowest_running_var")
"""Metrics that get a picture over rounds, where they were measured."""

FEWEST_VALUES = 3
"""Values of a setting that make a curve."""
LEAST_DIFFERENCE = 1.1
"""How many times what one arm sends a client another must send, before bytes tell more than rounds."""


def draw_outcome(run: Run, loaded: LoadedScenario, arms: Mapping[str, Rows], folder: Path) -> list[Path]:
    """Draw each metric over rounds; the first one also over bytes and over a setting, where arms differ in that.

    Args:
        run: the run folder.
        loaded: its scenario.
        arms: rows of metrics by arm.
        folder: where the pictures go.
    """
    question = loaded.scenario.question or loaded.scenario.name
    measured = [metric for metric in METRICS if any(metric in row for rows in arms.values() for row in rows)]
    made = [path for metric in measured for path in draw_metric(arms, metric, folder=folder, question=question)]
    for metric in measured[:1]:
        if traffic_differs(arms, metric):
            made += draw_comparison(
                compare([run], metric=metric), folder=folder, name=f"{metric}-bytes", question=question
            )
        if (found := against(loaded, arms, metric)) is not None:
            setting, curves = found
            note = f"{metric.replace('_', ' ')} after the last round"
            made += draw_curves(
                curves, metric, folder=folder, name=f"{metric}-{setting}", question=question, note=note, axis=setting
            )
    return made


def traffic_differs(arms: Mapping[str, Rows], metric: str) -> bool:
    """Say whether every arm has measured the metric and counted bytes, and some cost clearly more than others."""
    costs: list[float] = []
    for rows in arms.values():
        counted = [row for row in rows if row.get("replies") and "bytes_down" in row]
        if not counted or not any(metric in row for row in rows):
            return False
        sent = math.fsum(row["bytes_down"] + row["bytes_up"] for row in counted)
        costs.append(sent / math.fsum(row["replies"] for row in counted))
    return max(costs, default=0.0) > LEAST_DIFFERENCE * min(costs, default=0.0)


def against(loaded: LoadedScenario, arms: Mapping[str, Rows], metric: str) -> tuple[str, list[Curve]] | None:
    """Give the one number that arms differ in beside their names, and the last value of a metric over it.

    None where no setting takes several numbers, more than one does, or an arm lacks it.
    """
    settings = {arm.name: _numbers(arm.overrides) for arm in loaded.arms}
    values: dict[str, set[float]] = {}
    for own in settings.values():
        for path, value in own.items():
            values.setdefault(path, set()).add(value)
    several = [path for path, found in values.items() if len(found) >= FEWEST_VALUES]
    if len(several) != 1 or any(several[0] not in own for own in settings.values()):
        return None
    path = several[0]
    label = path.rsplit(".", 1)[-1]
    groups: dict[str, dict[float, list[float]]] = {}
    for arm, own in settings.items():
        name = re.sub(rf"(^|,)[\w.]*\b{re.escape(label)}=[^,]*", "", without_seed(arm)).strip(",")
        last = next((float(row[metric]) for row in reversed(arms.get(arm, ())) if metric in row), math.nan)
        groups.setdefault(name, {}).setdefault(own[path], []).append(last)
    if any(len(points) < FEWEST_VALUES for points in groups.values()):
        return None
    return label, [_curve(name, points) for name, points in groups.items()]


def _curve(name: str, points: Mapping[float, list[float]]) -> Curve:
    xs = sorted(points)
    ys = [points[x] for x in xs]
    means = [math.fsum(y) / len(y) for y in ys]
    return Curve(name, xs, means, [min(y) for y in ys], [max(y) for y in ys], max(len(y) for y in ys))


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Give the numbers among an arm's changes by dotted path; the seed is none of them."""
    found: dict[str, float] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{path}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and path != "seed":
            found[path] = float(value)
    return found
