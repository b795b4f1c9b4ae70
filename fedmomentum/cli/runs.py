"""``fedmomentum runs list``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from fedmomentum.cli import OK
from fedmomentum.cli.table import table
from fedmomentum.report.numbers import duration, number, size
from fedmomentum.runs.atomic import finite
from fedmomentum.runs.listing import RATED, ArmScore, Entry, overview


def command(args: argparse.Namespace) -> int:
    """Print the runs in a folder."""
    entries = overview(args.out, sort=args.sort, filters=args.filter)
    if args.json:
        print(json.dumps(finite([entry.as_dict() for entry in entries]), allow_nan=False))
        return OK
    nothing = f"no runs in {args.out}" + (" that match" if args.filter else "")
    print(as_text(entries) if entries else nothing)
    for entry in entries:
        if entry.problem:
            print(f"note: {entry.problem}", file=sys.stderr)
    return OK


def as_text(entries: Sequence[Entry]) -> str:
    """Give runs as an aligned table: one line each, scores of the arm that leads."""
    mixed = any(entry.metric not in ("", RATED[0]) for entry in entries)
    heads = [
        "run",
        "status",
        "leads",
        *(["metric", "last"] if mixed else ["accuracy"]),
        "best",
        "arms",
        "rounds",
        "started (UTC)",
        "took",
        "size",
    ]
    rows = []
    for entry in entries:
        name, score = entry.leader or ("", ArmScore(None, None))
        rows.append(
            [
                str(entry.path),
                entry.status,
                name,
                *([entry.metric] if mixed else []),
                number(score.final),
                number(score.best),
                str(len(entry.arms)) if entry.arms else "-",
                f"{entry.rounds_done}/{entry.rounds}" if entry.rounds else str(entry.rounds_done),
                entry.started[:16].replace("T", " "),
                "-" if entry.seconds is None else duration(entry.seconds),
                size(entry.bytes),
            ]
        )
    if not any(row[2] for row in rows):  # no run has arms
        heads, rows = heads[:2] + heads[3:], [row[:2] + row[3:] for row in rows]
    return table(heads, rows, left=heads.index("best") - 1)
