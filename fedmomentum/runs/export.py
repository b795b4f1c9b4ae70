"""A run's tables for other tools: pandas, polars, CSV and Parquet."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from fedmomentum.errors import UserError
from fedmomentum.runs.atomic import Row, write_with
from fedmomentum.runs.read import Run

if TYPE_CHECKING:
    import pandas
    import polars

TABLES = ("metrics", "clients", "failures")


def rows_of(run: Run, table: str) -> list[Row]:
    """Give the rows of a table by its name.

    Raises:
        UserError: there is no table of this name.
    """
    if table not in TABLES:
        raise UserError(f"there is no table '{table}'; a run has {', '.join(TABLES)}")
    return list({"metrics": run.metrics, "clients": run.clients, "failures": run.failures}[table])


def to_pandas(run: Run, table: str = "metrics") -> pandas.DataFrame:
    """Give a table as a pandas frame, one row a round (or client and round); what a row lacks is NaN.

    Raises:
        UserError: pandas is not installed, or there is no such table.
    """
    try:
        import pandas
    except ImportError as error:
        raise _missing("pandas", "a pandas frame") from error
    return pandas.DataFrame(rows_of(run, table))


def to_polars(run: Run, table: str = "metrics") -> polars.DataFrame:
    """Give a table as a polars frame, one row a round (or client and round); what a row lacks is null.

    Raises:
        UserError: polars is not installed, or there is no such table.
    """
    try:
        import polars
    except ImportError as error:
        raise _missing("polars", "a polars frame (or a Parquet file)") from error
    # Without rows there is nothing to infer a schema from; and a column may hold its first number late.
    rows = rows_of(run, table)
    return polars.from_dicts(rows, infer_schema_length=None) if rows else polars.DataFrame()


def write_csv(run: Run, table: str, stream: TextIO) -> None:
    """Write a table as CSV with Unix line ends, numbers so that they read back equal; NaN is an empty cell."""
    rows = rows_of(run, table)
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    if writer.fieldnames:
        writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if isinstance(v, float) and math.isnan(v) else v for key, v in row.items()})


def export(run: Run, table: str, path: str | os.PathLike[str]) -> Path:
    """Write a table to a file, as its suffix says: ``.csv`` or ``.parquet``; the file is there in full or not at all.

    Raises:
        UserError: another suffix, a table without rows, a package that is not installed, or a place that cannot be
            written to.
    """
    place = Path(path)
    if place.suffix not in (".csv", ".parquet"):
        raise UserError(f"{place}: expected a name that ends in .csv or .parquet")
    if not rows_of(run, table):
        raise UserError(f"{run.path}: the table of {table} has no rows")

    def fill(temporary: Path) -> None:
        if place.suffix == ".parquet":
            to_polars(run, table).write_parquet(temporary)
            return
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            write_csv(run, table, stream)

    try:
        write_with(place, fill)
    except OSError as error:
        raise UserError(f"{place}: cannot be written: {error.strerror}") from error
    return place


def _missing(package: str, what: str) -> UserError:
    return UserError(f"{what} needs {package}, which is not installed: pip install 'fedmomentum[{package}]'")
