"""One look for every figure, and files that are the same bytes each time they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY = "#1f2933", "#9aa5b1"
BLUE, ORANGE, GREEN, RED, PURPLE, TEAL = "#2563a8", "#e07b18", "#3a8f4d", "#c8373c", "#7b4fa3", "#148f94"
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, TEAL, INK, GREY)

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "path.simplify": True,
    "path.simplify_threshold": 0.3,
    "svg.hashsalt": "fedmomentum",
    "figure.constrained_layout.use": True,
}


@contextmanager
def look() -> Iterator[None]:
    """Draw in this look, whatever the user's own settings of matplotlib are."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcParams.update(matplotlib.rcParamsDefault)
        for key, value in STYLE.items():
            matplotlib.rcParams[key] = value  # type: ignore[index]
        yield


@contextmanager
def sheet(
    folder: Path, name: str, columns: int, *, rows: int = 1, width: float = 9.0, height: float = 3.4, **options: Any
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Give a figure and its axes (row by row) to draw on, and write ``name.svg`` and ``name.png`` when done.

    Args:
        folder: where the two files go; made if it is not there.
        name: without a suffix.
        columns: of axes.
        rows: of axes.
        width: inches.
        height: inches.
        options: for ``Figure.subplots``, such as ``width_ratios``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with look():
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False, **options)
        yield figure, [axis for row in axes for axis in row]
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", dpi=120, metadata={"Software": None})


def compact(picture: Path, colours: int = 96) -> None:
    """Write a PNG anew with a palette: a third of the size, and the eye sees no difference in a plot."""
    from PIL import Image

    with Image.open(picture) as image:
        small = image.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)
