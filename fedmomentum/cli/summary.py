"""What a run gave, in a few lines for people or one object for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fedmomentum.cli import predictions
from fedmomentum.report.numbers import duration, number

if TYPE_CHECKING:
    from fedmomentum.api import Result

Arms: TypeAlias = Mapping[str, Sequence[Mapping[str, Any]]]

SCORES = {"accuracy": max, "loss": min, "train_loss": min, "relative_error": min}
"""Metrics a run is summed up by, the first that was measured, and which of two values is the better one."""

MOST_ARMS = 4


def score(arms: Arms) -> str | None:
    """Name the metric to sum a run up by, or None where nothing was measured."""
    return next((key for key in SCORES if any(key in row for rows in arms.values() for row in rows)), None)


def last_value(rows: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    """Give the last measured value of a metric, which may be NaN."""
    return next((float(row[metric]) for row in reversed(rows) if metric in row), None)


def best_value(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[float, int] | None:
    """Give the best finite value of a metric and its round, the first one of equals."""
    points = [(float(row[metric]), int(row["round"])) for row in rows if metric in row]
    points = [point for point in points if math.isfinite(point[0])]
    return SCORES.get(metric, max)(points, key=lambda point: point[0]) if points else None


def total(arms: Arms, key: str) -> float:
    """Sum a metric over all rows of all arms."""
    return math.fsum(row[key] for rows in arms.values() for row in rows if math.isfinite(row.get(key, math.nan)))


def seconds(arms: Arms) -> float:
    """Give the time that all arms took."""
    return math.fsum(rows[-1].get("elapsed", 0.0) for rows in arms.values() if rows)


def headline(arms: Arms, *, status: str = "finished", name: str = "") -> str:
    """Say in one sentence what happened: ``FedAvgM reached accuracy 0.912 after 60 rounds; FedAvg 0.843 (...)``."""
    metric = score(arms)
    updates, failures = int(total(arms, "replies")), int(total(arms, "failures"))
    every = [row for rows in arms.values() for row in rows]
    federated = not every or any("cohort" in row or "replies" in row for row in every)
    noun = "round" if federated else "step"
    cost = f"({duration(seconds(arms))})"
    if federated:
        cost = f"({duration(seconds(arms))}, {_count(updates, 'client update')}, {_count(failures, 'failure')})"
    prefix = "" if status == "finished" else f"{status}: "
    begun = {arm: rows for arm, rows in arms.items() if rows}
    if not begun or metric is None:
        done = sum(int(rows[-1]["round"]) for rows in begun.values())
        return f"{prefix}{name or 'the run'} did {_count(done, noun)} {cost}"
    values = {arm: last_value(rows, metric) for arm, rows in begun.items()}
    sign = -1.0 if SCORES[metric] is max else 1.0
    ranked = sorted(begun, key=lambda arm: _rank(values[arm], sign))
    first = ranked[0]
    rounds = int(begun[first][-1]["round"])
    verb = "reached" if SCORES[metric] is max else "came to"
    words = [f"{first or name or 'the model'} {verb} {_value(values[first], metric)} after {_count(rounds, noun)}"]
    for arm in ranked[1:MOST_ARMS]:
        done = int(begun[arm][-1]["round"])
        words.append(f"{arm} {number(values[arm])}" + (f" after {done}" if done != rounds else ""))
    if len(ranked) > MOST_ARMS:
        words.append(_count(len(ranked) - MOST_ARMS, "more arm"))
    return f"{prefix}{'; '.join(words)} {cost}"


def final_lines(result: Result) -> list[str]:
    """Give the lines of the final screen: what happened, the claims, and where to look."""
    lines = [headline(result.arms, status=result.status, name=result.name)]
    if any(result.findings.values()):
        lines = [*predictions.lines(result.findings), _predictions(result)]
    lines += privacy_lines(result.arms)
    claims = result.expectations
    if claims:
        failed = [claim for claim in claims if not claim.ok]
        lines.append(f"claims: {len(claims) - len(failed)} of {len(claims)} hold")
        lines += [f"  does not hold: {claim.text}" for claim in failed]
    lines.append(f"run folder: {result.folder}")
    if pictures := find_pictures(result.folder):
        lines.append(f"picture:    {pictures[0]}")
    return lines


def privacy_lines(arms: Arms) -> list[str]:
    """Say what privacy has cost, of each arm that has it."""
    words = []
    for arm, rows in arms.items():
        spent, delta = last_value(rows, "epsilon"), last_value(rows, "delta")
        if spent is not None and delta is not None:
            words.append(f"{arm} epsilon {number(spent)} at delta {number(delta)}".strip())
    return [f"privacy of clients: {'; '.join(words)}"] if words else []


def _predictions(result: Result) -> str:
    prefix = "" if result.status == "finished" else f"{result.status}: "
    return f"{prefix}{predictions.headline(result.findings, result.name)} ({duration(seconds(result.arms))})"


def find_pictures(folder: Path) -> list[Path]:
    """Give the pictures of a run, the one to look at first.

    That is accuracy over bytes or over a setting, where there is such a picture; then draws beside their posterior, or
    accuracy over rounds, then other metrics, then the partition.
    """
    order = {"posterior": 1, "accuracy": 1, "loss": 2, "partition": 4, "predictions": 5}
    return sorted(
        Path(folder).glob("plots/*.png"),
        key=lambda path: (0 if path.stem.startswith("accuracy-") else order.get(path.stem, 3), path.stem),
    )


def as_json(result: Result) -> dict[str, object]:
    """Give the same facts as plain data."""
    metric = score(result.arms)
    arms: dict[str, object] = {}
    for arm, rows in result.arms.items():
        best = best_value(rows, metric) if metric else None
        arms[arm] = {
            "rounds": int(rows[-1]["round"]) if rows else 0,
            "metric": metric,
            "last": last_value(rows, metric) if metric else None,
            "best": best and best[0],
            "best_round": best and best[1],
            "metrics": dict(rows[-1]) if rows else {},
        }
    return {
        "name": result.name,
        "status": result.status,
        "folder": str(result.folder),
        "pictures": [str(path) for path in find_pictures(result.folder)],
        "arms": arms,
        "seconds": seconds(result.arms),
        "client_updates": int(total(result.arms, "replies")),
        "failures": int(total(result.arms, "failures")),
        "findings": result.findings,
        "expectations": [{"ok": claim.ok, "text": claim.text} for claim in result.expectations],
        "warnings": list(result.warnings),
    }


def _value(value: float | None, metric: str) -> str:
    return f"{metric.replace('_', ' ')} {number(value)}"


def _rank(value: float | None, sign: float) -> tuple[bool, float]:
    bad = value is None or not math.isfinite(value)
    return (bad, 0.0 if value is None or bad else sign * value)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
