"""The drawings of a report that need no library: SVG shapes that stretch to the page, their words in HTML around them.

Colours are CSS classes (``k0``, ``k1``, ... for kinds, ``h1`` to ``h5`` for amounts, ``bad``), so a drawing follows the
theme of the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from fedmomentum.report.markup import Html, join, tag, text
from fedmomentum.report.numbers import number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Counts: TypeAlias = np.ndarray[Any, np.dtype[np.integer[Any]]]

MOST_BARS = 120
"""Clients that get a bar of their own."""
KINDS = 10
"""Colours of kinds; what is beyond them shares the last one."""
LEVELS = 5
"""Shades of an amount."""
MOST_TICKS = 150
"""Values that get a tick of their own."""


def picture(width: float, height: float, *shapes: Html, label: str, class_: str) -> Html:
    """Make an SVG of a coordinate system that stretches to the place it is given."""
    return tag(
        "svg", tag("title", label), *shapes, viewBox=f"0 0 {width:g} {height:g}", preserveAspectRatio="none",
        class_=class_, role="img", aria_label=label,
    )  # fmt: skip


def key(entries: Iterable[tuple[str, str]]) -> Html:
    """Explain colours: pairs of a CSS class and a word."""
    items = (tag("li", tag("span", class_=f"swatch {colour}", aria_hidden="true"), word) for colour, word in entries)
    return tag("ul", *items, class_="key")


def kind(k: int) -> str:
    """Name the CSS class of the k-th kind."""
    return f"k{min(k, KINDS - 1)}"


def ends(left: str, right: str, middle: str = "") -> Html:
    """Write what stands at the ends of an axis, and its name between them."""
    return tag("div", tag("span", left), tag("span", middle), tag("span", right), class_="ends", aria_hidden="true")


def partition_bars(counts: Counts, label: str) -> Html:
    """Draw the classes of each client as a stacked bar; of many clients, the mean shares of neighbours.

    Args:
        counts: ``[C, classes]``. More than ``MOST_BARS`` clients are ordered by their commonest class (and how common
            it is) and averaged; more than ``KINDS`` classes are joined into as many ranges.
        label: of the drawing.
    """
    import numpy as np

    clients, classes = counts.shape
    edges = [round(k * classes / min(classes, KINDS)) for k in range(min(classes, KINDS) + 1)]
    values = np.add.reduceat(counts, edges[:-1], axis=1).astype(float)
    binned = clients > MOST_BARS
    if binned:
        share = values / np.maximum(values.sum(1, keepdims=True), 1)
        share = share[np.lexsort((-share.max(1), share.argmax(1)))]
        values = np.array([part.mean(0) for part in np.array_split(share, MOST_BARS)])
    values *= 100 / max(values.sum(1).max(), 1e-300)
    tops = values.cumsum(1)
    shapes = [tag("path", class_=kind(k), d=_bars(100 - tops[:, k], values[:, k])) for k in range(values.shape[1])]
    if not binned:
        shapes += [
            tag("rect", tag("title", f"client {c}: {_holds(row)}"), x=c, y=0, width=1, height=100, class_="hit")
            for c, row in enumerate(counts)
        ]
    words = [f"{a}" if b - a == 1 else f"{a}–{b - 1}" for a, b in pairwise(edges)]
    tallest = f"highest bar: {int(counts.sum(1).max()):,} examples"
    axis = ends("client 0", f"client {clients - 1}", tallest)
    if binned:
        axis = ends("", "", "shares of classes; clients in the order of their commonest class")
    return join(
        [
            picture(len(values), 100, *shapes, label=label, class_="bars"),
            axis,
            tag("div", "class", key((kind(k), word) for k, word in enumerate(words)), class_="keyed"),
        ]
    )


def _bars(tops: NDArray[Any], heights: NDArray[Any]) -> str:
    held = [(c, y, h) for c, (y, h) in enumerate(zip(tops.tolist(), heights.tolist(), strict=True)) if h > 0]
    return "".join(f"M{c + 0.06:g} {y:.5g}h.88v{h:.5g}h-.88z" for c, y, h in held)


def _holds(row: NDArray[Any]) -> str:
    classes = ", ".join(f"{count} of class {k}" for k, count in enumerate(row.tolist()) if count)
    return f"{int(row.sum())} examples" + (f" ({classes})" if classes else "")


def heat_map(replied: NDArray[Any], failed: NDArray[Any], label: str) -> Html:
    """Draw who took part when: a row a client (or a few of them), a column a round (or a few of them).

    Args:
        replied: ``[rows, columns]``, the share of each cell that took part and was used, in [0, 1].
        failed: the same, for replies that were not used; a cell with any is drawn as such, the shade says how many.
        label: of the drawing.
    """
    import numpy as np

    highest = max(float(replied.max(initial=0)), 1e-300)
    shades = np.ceil(LEVELS * replied / highest).astype(int)
    bad = np.ceil(2 * failed / max(float(failed.max(initial=0)), 1e-300)).astype(int)
    shades[bad > 0] = 0
    rows, columns = replied.shape
    shapes = [tag("path", class_=f"h{level}", d=_cells(shades == level)) for level in range(1, LEVELS + 1)]
    shapes += [tag("path", class_=f"bad{level}", d=_cells(bad == level)) for level in (1, 2)]
    return picture(columns, rows, *(shape for shape in shapes if ' d=""' not in shape), label=label, class_="heat")


def _cells(mask: NDArray[Any]) -> str:
    """Give the outlines of the true cells, neighbours in a row joined."""
    import numpy as np

    padded = np.pad(mask.astype(np.int8), ((0, 0), (1, 1)))
    change = np.diff(padded, axis=1)
    rows, starts = np.nonzero(change == 1)
    stops = np.nonzero(change == -1)[1]
    runs = zip(rows.tolist(), starts.tolist(), (stops - starts).tolist(), strict=True)
    return "".join(f"M{x} {y}h{n}v1h-{n}z" for y, x, n in runs)


def strip(values: Sequence[float], low: float, high: float, label: str, colour: str) -> Html:
    """Draw each value as a tick between ``low`` and ``high``; of many, the median, the middle half and middle 80 %."""
    import numpy as np

    def place(value: float) -> str:
        return f"{1 + 98 * (value - low) / ((high - low) or 1.0):.4g}"

    if len(values) <= MOST_TICKS:
        ticks = dict.fromkeys(map(place, sorted(values)))
        return picture(100, 10, _ticks(ticks, colour), label=label, class_="strip")
    ends = [place(value) for value in np.percentile(values, (10, 25, 50, 75, 90)).tolist()]
    boxes = [
        tag("path", class_=f"box {colour}", d=f"M{ends[i]} {top}H{ends[-1 - i]}V{10 - top}H{ends[i]}z")
        for i, top in ((0, 3), (1, 1.5))
    ]
    return picture(100, 10, *boxes, _ticks([ends[2]], colour), label=label, class_="strip")


def _ticks(places: Iterable[str], colour: str) -> Html:
    return tag("path", class_=f"ticks {colour}", d="".join(f"M{x} 1v8" for x in places))


def stack(parts: Mapping[str, float], longest: float, order: Sequence[str], label: str) -> Html:
    """Draw amounts side by side as one bar; a bar of ``longest`` fills the width."""
    x, shapes = 0.0, []
    for name, amount in parts.items():
        width = 100 * amount / (longest or 1.0)
        words = tag("title", f"{text(name)}: {number(amount)} s")
        shapes.append(
            tag("rect", words, x=f"{x:.5g}", y=0, width=f"{width:.5g}", height=10, class_=kind(order.index(name)))
        )
        x += width
    return picture(100, 10, *shapes, label=label, class_="stack")
