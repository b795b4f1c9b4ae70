"""How the examples lie on the clients: a bar a client where there are few, a summary where there are thousands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fedmomentum.report.figure import CLASSES, figure, head, save, style

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    Counts: TypeAlias = np.ndarray[Any, np.dtype[np.integer[Any]]]

MOST_BARS = 120
"""Clients that get a bar of their own."""
MOST_COLOURS = 20
"""Classes that bars can tell apart by colour."""
BINS = 160
"""Columns of the summary of more clients than that."""


def draw_partition(
    counts: Counts | Sequence[Sequence[int]],
    *,
    folder: Path,
    name: str = "partition",
    question: str = "",
    class_names: Sequence[str] | None = None,
) -> list[Path]:
    """Draw the label counts of each client into ``<name>.svg`` and ``<name>.png``.

    Up to ``MOST_BARS`` clients stand in their own order as stacked bars, one colour a class (``MOST_COLOURS`` at
    most). What is more than that is summarised: clients ordered by their commonest class (and how common it is) and
    averaged in ``BINS`` columns; above, the sizes in each column; below, the share of each class.

    Args:
        counts: ``[C, classes]`` examples of each class on each client.
        folder: where the pictures go; made where it is missing.
        name: file name without suffix.
        question: title of the picture.
        class_names: what to call the classes; by default their numbers.

    Raises:
        ValueError: ``counts`` is not a table with a client and a class, or the names are of another number.
    """
    import numpy as np

    table = np.asarray(counts)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"counts must be [clients, classes], not {list(table.shape)}")
    names = [str(k) for k in range(table.shape[1])] if class_names is None else list(class_names)
    if len(names) != table.shape[1]:
        raise ValueError(f"{len(names)} class names for {table.shape[1]} classes")
    few = len(table) <= MOST_BARS and len(names) <= MOST_COLOURS
    with style():
        made = _bars(table, names, question) if few else _summary(table, names, question)
        return save(made, folder, name)


def _facts(table: Counts) -> str:
    import numpy as np

    sizes = table.sum(1)
    share = table.max(1)[sizes > 0] / sizes[sizes > 0]
    empty = int((sizes == 0).sum())
    words = [
        "1 client" if len(table) == 1 else f"{len(table)} clients",
        f"{int(sizes.sum())} examples",
        f"sizes {sizes.min()} to {sizes.max()}, median {np.median(sizes):g}",
        f"commonest class {share.mean():.0%} of a client" if len(share) else "",
        f"{empty} without examples" if empty else "",
    ]
    return "; ".join(word for word in words if word)


def _colours(count: int) -> list[Any]:
    if count <= len(CLASSES):
        return list(CLASSES[:count])
    from matplotlib import colormaps

    return [colormaps["turbo"](0.04 + 0.92 * k / (count - 1)) for k in range(count)]


def _bars(table: Counts, names: Sequence[str], question: str) -> Figure:
    import numpy as np
    from matplotlib.collections import PolyCollection
    from matplotlib.ticker import MaxNLocator

    made = figure(8.0, 4.0)
    axes = made.add_subplot()
    tops = table.cumsum(1)
    for k, colour in enumerate(_colours(len(names))):
        held = np.flatnonzero(table[:, k])
        left, right, top = held - 0.44, held + 0.44, tops[held, k]
        low = top - table[held, k]
        corners = np.stack([[left, low], [right, low], [right, top], [left, top]]).transpose(2, 0, 1)
        # One collection a class: thousands of single bars would take seconds.
        axes.add_collection(
            PolyCollection(list(corners), facecolors=colour, linewidths=0, label=names[k]), autolim=False
        )
    axes.set_xlim(-0.8, len(table) - 0.2)
    axes.set_xlabel("client")
    axes.set_ylabel("examples")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10]))
    axes.grid(axis="y")
    axes.set_ylim(0, 1.05 * max(1, table.sum(1).max()))
    head(axes, question, _facts(table))
    made.legend(loc="outside right upper", title="class", reverse=True, handlelength=1, handleheight=1)
    return made


def _summary(table: Counts, names: Sequence[str], question: str) -> Figure:
    import numpy as np
    from matplotlib.ticker import PercentFormatter

    sizes = table.sum(1)
    held = np.maximum(sizes, 1)
    order = np.lexsort((-table.max(1) / held, table.argmax(1)))
    bins = np.array_split(order, min(BINS, len(table)))
    edges = np.concatenate([[0], np.cumsum([len(b) for b in bins])])

    made = figure(8.0, 5.2)
    top, bottom = made.subplots(2, 1, sharex=True, height_ratios=(1, 2.4))
    low, middle, high = np.array([np.percentile(sizes[b], (5, 50, 95)) for b in bins]).T
    top.stairs(high, edges, baseline=low, fill=True, color="#BFD7EA")
    top.stairs(middle, edges, color="#0072B2", linewidth=1.2)
    top.set_ylim(0)
    top.set_ylabel("examples")
    top.grid(axis="y")
    head(top, question, f"{_facts(table)}\nsizes: median (line), 5th to 95th percentile (band)")

    heat = np.array([(table[b] / held[b, None]).mean(0) for b in bins]).T
    rows = np.arange(len(names) + 1) - 0.5
    mesh = bottom.pcolormesh(
        edges, rows, heat, cmap="viridis", vmin=0, vmax=max(float(heat.max()), 0.01), rasterized=True
    )
    bottom.set_xlim(0, len(table))
    bottom.set_xlabel("clients, ordered by their commonest class")
    bottom.set_ylabel("class")
    step = 1 + len(names) // 25
    bottom.set_yticks(range(0, len(names), step), list(names)[::step])
    made.colorbar(
        mesh, ax=bottom, label="share of a client's examples", format=PercentFormatter(1, decimals=0), pad=0.015
    )
    return made
