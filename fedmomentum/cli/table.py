"""Plain aligned tables, which look the same on a terminal, in a pipe and in a bug report."""

from __future__ import annotations

from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Align cells in columns, the first ``left`` of them to the left and the others to the right."""
    grid = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in grid) for column in range(len(heads))]
    lines = []
    for row in grid:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
