"""``fedmomentum compare``."""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from fedmomentum.cli import OK
from fedmomentum.cli.table import table
from fedmomentum.errors import UserError
from fedmomentum.report.numbers import duration, number, size
from fedmomentum.runs import Run, load_run
from fedmomentum.runs.atomic import finite
from fedmomentum.runs.compare import Candidate, Comparison, compare
from fedmomentum.runs.estimate import Estimate


def command(args: argparse.Namespace) -> int:
    """Compare runs, print a table, and draw it."""
    comparison = compare(
        open_all(args.runs),
        metric=args.metric,
        target=args.target,
        baseline=args.baseline,
        confidence=args.confidence / 100,
    )
    pictures: list[Path] = []
    if args.plots:
        from fedmomentum.report.comparison import draw_comparison

        title = f"{comparison.metric.replace('_', ' ')} of {len(comparison.candidates)} candidates"
        pictures = draw_comparison(comparison, folder=Path(args.plots), question=title)
    if args.json:
        facts = comparison.as_dict() | {"pictures": [str(path) for path in pictures]}
        print(json.dumps(finite(facts), allow_nan=False))
        return OK
    if args.csv:
        records = comparison.records()
        writer = csv.DictWriter(sys.stdout, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(finite(records))
    else:
        print(as_text(comparison))
    stream = sys.stderr if args.csv else sys.stdout
    for note in comparison.notes:
        print(f"note: {note}", file=stream)
    if pictures:
        print(f"picture: {pictures[-1]}", file=stream)
    return OK


def open_all(paths: Sequence[str]) -> list[Run]:
    """Open run folders, or tell of each that is none why it is not."""
    runs, faults = [], []
    for path in paths:
        try:
            runs.append(load_run(path))
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))
    return runs


def as_text(comparison: Comparison) -> str:
    """Give the comparison as an aligned table, with a line that says what its numbers are."""
    percent = f"{100 * comparison.confidence:g} %"
    heads = ["", "seeds", comparison.metric, "best", f"vs {comparison.baseline.label}"]
    if comparison.target is not None:
        heads += [f"rounds to {comparison.target:g}", "sent", "time", "reached"]
    rows = []
    for one in comparison.candidates:
        difference = comparison.difference(one)
        row = [one.label, str(len(one.outcomes)), _estimate(one.final), _estimate(one.best)]
        row.append("" if one is comparison.baseline else _estimate(difference, sign="+"))
        rows.append(row + (_costs(one) if comparison.target is not None else []))
    words = [f"±: {percent} t interval over seeds, of differences paired by seed"]
    if comparison.target is not None:
        words.append("to the target: median over seeds, a seed that never got there counting as the last")
    return f"{table(heads, rows)}\n\n{'; '.join(words)}"


def _estimate(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None:
        return "-"
    if not math.isfinite(estimate.mean):
        return "diverged"
    plus = sign if estimate.mean > 0 else ""
    return f"{plus}{number(estimate.mean)}" + (f" ± {number(estimate.half)}" if math.isfinite(estimate.half) else "")


def _costs(one: Candidate) -> list[str]:
    rounds, sent, seconds = one.cost("round"), one.cost("bytes"), one.cost("seconds")
    return [
        "never" if rounds is None else f"{rounds:g}",
        "-" if sent is None else size(sent),
        "-" if seconds is None else duration(seconds),
        f"{one.reached}/{len(one.outcomes)}",
    ]
