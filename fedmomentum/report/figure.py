"""How every picture of ours looks, and how it reaches the disk: the same bytes for the same numbers.

Figures are made without pyplot, so drawing changes no state of the process and needs no display.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmomentum.runs.atomic import write_with, writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#222222", "#6b6b6b", "#e4e4e4"

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A4C93", "#7F7F7F")
"""Okabe and Ito's colours, which people with any colour vision tell apart; their yellow and black are replaced."""

CLASSES = (
    *("#332288", "#88CCEE", "#44AA99", "#117733", "#999933"),
    *("#DDCC77", "#CC6677", "#882255", "#AA4499", "#BBBBBB"),
)
"""Paul Tol's muted colours, for up to ten classes that stand side by side."""

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 200,
    "svg.fonttype": "none",  # text stays text: it can be searched, selected and restyled
    "svg.hashsalt": "fedmomentum",  # element ids do not depend on the process
}


@contextmanager
def style() -> Iterator[None]:
    """Draw and save in the house style within this context."""
    from matplotlib import rc_context

    with rc_context(_STYLE):
        yield


def figure(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches that saves without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    made = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(made)
    return made


def head(axes: Axes, question: str, note: str = "") -> None:
    """Put a bold title above the axes, broken into at most three lines, and small lines of facts under it."""
    width = axes.get_figure(root=True).get_figwidth()  # type: ignore[union-attr]
    lines = textwrap.wrap(" ".join(question.split()), int(width * 9), max_lines=3, placeholder=" …")
    axes.set_title("\n".join(lines), pad=10 + 10.5 * (note.count("\n") + 1 if note else 0))
    if note:
        axes.annotate(
            note, (0, 1), (0, 7), "axes fraction", "offset points", fontsize=8, color=FAINT, linespacing=1.3
        )  # fmt: skip


def save(made: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``<name>.svg`` and ``<name>.png`` into a folder, atomically, and give their paths."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("svg", "png")]
    for path, metadata in zip(paths, ({"Date": None, "Creator": "fedmomentum"}, {"Software": None}), strict=True):
        write_with(path, partial(made.savefig, format=path.suffix[1:], metadata=metadata))
    return paths
