"""``fedmomentum show``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from fedmomentum.cli import OK, predictions
from fedmomentum.cli.summary import best_value, find_pictures, headline, last_value
from fedmomentum.cli.table import table
from fedmomentum.report.numbers import duration, number
from fedmomentum.runs import Run, load_run, loading_snippet
from fedmomentum.runs.folder import MODEL

FIRST = ("round", "accuracy", "loss", "train_loss")
"""Columns that come first in a table of rounds, where they are there."""
HIDDEN = ("bytes_down", "bytes_up", "cohort", "replies")
MOST_COLUMNS = 9


def command(args: argparse.Namespace) -> int:
    """Print a resolved scenario or a run."""
    print(show_run(load_run(args.what), args.rows) if Path(args.what).is_dir() else show_scenario(args))
    return OK


def show_scenario(args: argparse.Namespace) -> str:
    """Give the scenario as YAML with every default filled in."""
    from fedmomentum import scenario

    return scenario.as_yaml(scenario.load(args.what, args.overrides).resolved()).rstrip()


def show_run(run: Run, rows: int) -> str:
    """Give what a run was about, what became of it, and its metrics arm by arm."""
    status = run.status
    when = " ".join(str(status.get("started", ""))[:16].split("T"))
    parts = [f"{run.name}  {status.get('status', 'unknown')}  {when} UTC".rstrip()]
    if question := run.scenario.get("question"):
        parts.append(str(question))
    if status.get("status") == "running":
        parts.append(f"last sign of life {_since(str(status.get('updated', '')))}")
    if message := status.get("message"):
        parts.append(str(message))
    series = run.series
    if not any(series.values()):
        parts.append("no round was recorded")
    else:
        parts.append(headline(series, status=str(status.get("status", "finished")), name=run.name))
        if findings := {arm: found for arm, one in (run.arms or {"": run}).items() if (found := one.findings)}:
            parts.append("\n".join(predictions.lines(findings)))
        else:
            parts.append(_overview(series))
        for arm, arm_rows in series.items():
            if rows > 0 and arm_rows:
                parts.append((f"{arm}, last rounds\n" if arm else "last rounds\n") + _last(arm_rows, rows))
    for arm_run in run.arms.values() or [run]:
        if arm_run.failures:
            parts.append(_failures(arm_run))
    parts += [f"picture: {path}" for path in find_pictures(run.path)[:3]]
    models = [path for path in (run.path / MODEL, *(arm.path / MODEL for arm in run.arms.values())) if path.exists()]
    if models:
        parts.append(f"to load the model:\n{loading_snippet(models[0])}")
    return "\n\n".join(parts)


def _overview(series: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    metrics = [m for m in FIRST[1:] if any(m in row for rows in series.values() for row in rows)]
    heads = ["arm", "rounds"] + [head for metric in metrics for head in (metric, "best", "in round")]
    body = []
    for arm, rows in series.items():
        cells = [arm or "-", str(int(rows[-1]["round"])) if rows else "0"]
        for metric in metrics:
            best = best_value(rows, metric)
            cells += [number(last_value(rows, metric)), number(best and best[0]), str(best[1]) if best else "-"]
        body.append(cells)
    return table(heads, body)


def _last(rows: Sequence[Mapping[str, Any]], count: int) -> str:
    shown = rows[-count:]
    present = dict.fromkeys(key for row in shown for key in row)
    keys = [key for key in FIRST if key in present]
    keys += [key for key in present if key not in FIRST and key not in HIDDEN and not key.startswith("seconds_")]
    keys = keys[:MOST_COLUMNS]
    return table(keys, [[_cell(row.get(key)) for key in keys] for row in shown], left=0)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and not (value.is_integer() and abs(value) >= 1):
        return number(value)
    return str(int(value)) if isinstance(value, int | float) and math.isfinite(value) else str(value)


def _failures(run: Run) -> str:
    kinds: dict[str, int] = {}
    for row in run.failures:
        kinds[str(row["kind"])] = kinds.get(str(row["kind"]), 0) + 1
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1]))
    last = run.failures[-1]
    where = f"{run.arm}: " if run.arm else ""
    return f"{where}failures: {counts}; the last in round {last['round']}, client {last['client']}: {last['reason']}"


def _since(iso: str) -> str:
    try:
        then = datetime.fromisoformat(iso)
    except ValueError:
        return "unknown"
    return f"{duration(max(0.0, (datetime.now(then.tzinfo) - then).total_seconds()))} ago"
