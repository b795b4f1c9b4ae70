"""``fedmomentum report``."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from pathlib import Path

from fedmomentum.cli import OK
from fedmomentum.runs import load_run

DEFAULT = "report.html"


def command(args: argparse.Namespace) -> int:
    """Write the report of one or several runs and say where it is."""
    runs = [load_run(path) for path in args.runs]
    out = Path(args.out) if args.out else (runs[0].path / DEFAULT if len(runs) == 1 else Path(DEFAULT))
    from fedmomentum.report.page import write_report

    def written(path: Path) -> None:
        print(f"report: {path}", flush=True)
        if args.open and not webbrowser.open(path.resolve().as_uri()):
            print(f"no browser could be started; open {path} yourself", file=sys.stderr)

    files = write_report(runs, out, plots=args.plots, written=written)
    if len(files) > 1:
        print(f"plots:  {files[1].parent} ({len(files) - 1} files)")
    return OK
