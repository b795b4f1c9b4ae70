"""``fedmomentum export``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fedmomentum.cli import OK
from fedmomentum.errors import UserError
from fedmomentum.runs import Run, load_run
from fedmomentum.runs.export import export, rows_of, write_csv


def command(args: argparse.Namespace) -> int:
    """Write the tables of a run for other tools."""
    run = load_run(args.run)
    if args.out == "-":
        if args.format != "csv":
            raise UserError("--out -: only CSV can be printed; name a file for Parquet")
        write_csv(run, args.table or "metrics", sys.stdout)
        return OK
    for table, path in places(run, args.format, args.table, args.out).items():
        export(run, table, path)
        rows = len(rows_of(run, table))
        print(f"{path}  {rows} {'row' if rows == 1 else 'rows'} of {table}")
    return OK


def places(run: Run, suffix: str, table: str | None, out: str | None) -> dict[str, Path]:
    """Say which tables go where: metrics into the file that was asked for, clients beside it.

    Args:
        run: what to export.
        suffix: ``csv`` or ``parquet``; given to a name that has none.
        table: the one to write; by default metrics, and clients where there are rows of them.
        out: the file; by default ``<scenario>-<folder>-<table>`` in the present folder.
    """
    tables = [table] if table else ["metrics"] + (["clients"] if run.clients else [])
    if out is None:
        stem = f"{run.path.parent.name}-{run.path.name}" if not run.arm else run.path.name
        return {name: Path(f"{stem}-{name}.{suffix}") for name in tables}
    asked = Path(out)
    if asked.suffix not in ("", f".{suffix}"):
        raise UserError(f"--out {out}: expected a name that ends in .{suffix}")
    asked = asked.with_suffix(f".{suffix}")
    return {name: asked if i == 0 else asked.with_stem(f"{asked.stem}-{name}") for i, name in enumerate(tables)}
