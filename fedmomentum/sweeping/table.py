"""The table of a sweep: a row a point."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmomentum.runs.atomic import write_text
from fedmomentum.sweeping.point import Point

TABLE = "points.csv"
BEST = {"accuracy": max, "loss": min, "train_loss": min}
"""Metrics of the table, and which of two values is the better one."""


def write_table(sweep: Path, points: Sequence[Point]) -> Path:
    """Write ``points.csv``: of each point its settings, what became of it, and its metrics; give the path."""
    settings = list(dict.fromkeys(key for point in points for key in point.settings))
    rows = []
    for point in points:
        run = point.run(sweep)
        status = "" if run is None else str(run.status.get("status", ""))
        rows.append(
            {"point": point.name, **{key: _cell(point.settings.get(key)) for key in settings}}
            | {"status": status, "folder": point.folder}
            | (metrics_of(run.metrics) if run is not None else {})
        )
    heads = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, heads, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(sweep / TABLE, text.getvalue())
    return sweep / TABLE


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Give rounds done, and of each metric its last value, its best finite one, and the round of that."""
    found: dict[str, Any] = {"rounds": int(rows[-1]["round"]) if rows else 0}
    for metric, better in BEST.items():
        values = [(float(row[metric]), int(row["round"])) for row in rows if metric in row]
        if not values:
            continue
        found[f"last_{metric}"] = values[-1][0]
        if finite := [value for value in values if math.isfinite(value[0])]:
            best = better(finite, key=lambda value: value[0])
            found[f"best_{metric}"], found[f"best_{metric}_round"] = best
    return found


def _cell(value: object) -> object:
    return "" if value is None else json.dumps(value) if isinstance(value, list | dict | bool) else value
