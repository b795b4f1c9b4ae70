"""Metrics over rounds: one curve an arm, seeds of an arm as a band around their mean."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fedmomentum.report.figure import FAINT, PALETTE, figure, head, save, style
from fedmomentum.report.numbers import number, real

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows: TypeAlias = Sequence[Mapping[str, Any]]

MOST_DIRECT_LABELS = 12
"""Curves that are named at their right end; more of them get a legend below the axes."""


@dataclass(frozen=True)
class Curve:
    """One line of a picture: per round the mean, lowest and highest value over ``seeds`` runs."""

    name: str
    rounds: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    seeds: int

    @property
    def last(self) -> tuple[float, float] | None:
        """The last finite point (round, mean)."""
        points = [(x, y) for x, y in zip(self.rounds, self.mean, strict=True) if math.isfinite(y)]
        return points[-1] if points else None

    @property
    def diverged(self) -> bool:
        """Whether the metric stopped being a finite number and stayed so."""
        return bool(self.mean) and not math.isfinite(self.mean[-1])


def draw_metric(
    series: Mapping[str, Rows],
    metric: str = "accuracy",
    *,
    folder: Path,
    name: str | None = None,
    question: str = "",
) -> list[Path]:
    """Draw a metric over rounds, one curve an arm, into ``<name>.svg`` and ``<name>.png``.

    Arms whose names differ only in ``seed=<n>`` are one curve: the mean over seeds, in a band from the lowest to the
    highest. A mean is drawn only where every seed has a value, so a seed that diverged is never averaged away. A curve
    ends with its name and last value, or with a cross where the metric stopped being finite.

    Args:
        series: metric rows (``round`` and metrics) by arm; a run without arms has one arm named ``""``.
        metric: key of the rows; rows without it (rounds that were not evaluated) are passed over.
        folder: where the pictures go; made where it is missing.
        name: file name without suffix; by default the metric's.
        question: title of the picture.

    Returns:
        The two files, or nothing where no row has a finite value of the metric.
    """
    curves = collect(series, metric)
    note = _note([curve for curve in curves if curve.last])
    return draw_curves(
        curves, metric, folder=folder, name=name or metric.replace("/", "-"), question=question, note=note
    )


def draw_curves(
    curves: Sequence[Curve],
    metric: str,
    *,
    folder: Path,
    name: str,
    question: str = "",
    note: str = "",
    axis: str = "round",
) -> list[Path]:
    """Draw curves as :func:`draw_metric` does, over whatever their ``rounds`` hold.

    Args:
        curves: one a group of arms; those without a finite value are passed over.
        metric: names the vertical axis and decides its scale.
        folder: where the pictures go; made where it is missing.
        name: file name without suffix.
        question: title of the picture.
        note: small print under it.
        axis: name of the horizontal axis.
    """
    curves = [curve for curve in curves if curve.last]
    if not curves:
        return []
    with style():
        direct = len(curves) <= MOST_DIRECT_LABELS
        made = figure(7.2, 4.2 if direct else 5.4)
        axes = made.add_subplot()
        for curve, (colour, dash) in zip(curves, _looks(len(curves)), strict=True):
            _draw(axes, curve, _label(curve, axis), colour, dash)
        _scale(axes, curves, metric, whole=axis == "round")
        axes.set_xlabel(axis)
        axes.set_ylabel(metric.replace("_", " "))
        axes.grid(axis="y")
        head(axes, question, note)
        if direct:
            _label_ends(axes, [(curve.last, _label(curve, axis)) for curve in curves if curve.last])
        else:
            made.legend(loc="outside lower center", ncols=2 if len(curves) <= 24 else 3, fontsize=8)
        return save(made, folder, name)


def _note(curves: Sequence[Curve]) -> str:
    if not curves:
        return ""
    fewest, most = min(curve.seeds for curve in curves), max(curve.seeds for curve in curves)
    count = str(most) if fewest == most else f"{fewest} to {most}"
    return f"line: mean of {count} seeds; band: lowest to highest" if most > 1 else ""


def collect(series: Mapping[str, Rows], metric: str) -> list[Curve]:
    """Join the seeds of each arm and take the rounds in which the metric was measured."""
    groups: dict[str, list[Rows]] = {}
    for arm, rows in series.items():
        groups.setdefault(without_seed(arm), []).append(rows)
    curves = []
    for arm, runs in groups.items():
        values = [{float(row["round"]): real(row[metric]) for row in rows if metric in row} for rows in runs]
        rounds = sorted({r for run in values for r in run if all(r in other for other in values)})
        points = [[run[r] for run in values] for r in rounds]
        mean = [math.fsum(p) / len(p) for p in points]
        low, high = (
            [pick(p) if math.isfinite(m) else m for p, m in zip(points, mean, strict=True)] for pick in (min, max)
        )
        curves.append(Curve(arm, rounds, mean, low, high, len(runs)))
    return curves


def without_seed(arm: str) -> str:
    """Give the name of an arm without its seed: the name that the seeds of an arm share."""
    return re.sub(r"[\s,;/_-]*\bseed\s*[=:]?\s*\d+\b", "", arm).strip(" ,;/_-")


def _looks(count: int) -> list[tuple[Any, str]]:
    """Give each curve a colour and a dash: few get distinct hues, many the shades of one ordered map."""
    if count <= len(PALETTE):
        return [(PALETTE[i], "-") for i in range(count)]
    from matplotlib import colormaps

    return [(colormaps["viridis"](0.9 * i / (count - 1)), ("-", "--", ":")[i % 3]) for i in range(count)]


def _draw(axes: Axes, curve: Curve, label: str, colour: Any, dash: str) -> None:
    dots = "o" if len(curve.rounds) <= 15 else ""
    axes.plot(curve.rounds, curve.mean, dash, color=colour, linewidth=1.8, label=label, marker=dots, markersize=4)
    if curve.seeds > 1:
        axes.fill_between(curve.rounds, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0)
    if curve.diverged and curve.last:
        axes.plot(*curve.last, marker="X", color=colour, markersize=9, markeredgecolor="white", clip_on=False)


def _label(curve: Curve, axis: str) -> str:
    assert curve.last is not None
    if curve.diverged and axis != "round":
        return f"{curve.name}  diverged".strip()
    if curve.diverged:
        after = curve.rounds[curve.rounds.index(curve.last[0]) + 1]
        return f"{curve.name}  diverged in round {after:g}".strip()
    return f"{curve.name}  {number(curve.last[1])}".strip()


def _scale(axes: Axes, curves: Sequence[Curve], metric: str, *, whole: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    values = [y for curve in curves for y in (*curve.low, *curve.high) if math.isfinite(y)]
    low, high = min(values), max(values)
    if low > 0 and high / low > 100:
        axes.set_yscale("log")
    elif metric.endswith("accuracy") and low >= 0 and high <= 1:
        axes.set_ylim(max(0.0, low - 0.05), min(1.0, high + 0.05))
    last = max(curve.rounds[-1] for curve in curves)
    first = min(curve.rounds[0] for curve in curves)
    pad = 0.02 * (last - first) or 0.5
    if low < 0 < high:
        axes.axhline(0.0, color=FAINT, linewidth=1, linestyle=":")
    if not whole and first > 0 and last / first > 100:
        axes.set_xscale("log")
        return
    axes.set_xlim(first - pad, last + pad)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=whole, steps=[1, 2, 5, 10]))


def _label_ends(axes: Axes, ends: Sequence[tuple[tuple[float, float], str]]) -> None:
    """Write labels right of the axes at the height of each curve's last point, moved apart where they would touch."""
    made = axes.get_figure(root=True)
    assert made is not None
    made.draw_without_rendering()  # lays out the axes: only then do data have a height on the page
    gap = 13.0 * made.dpi / 72 / axes.get_window_extent().height
    to_page = axes.transData + axes.transAxes.inverted()
    wanted = [float(to_page.transform(point)[1]) for point, _ in ends]
    colours = {line.get_label(): line.get_color() for line in axes.get_lines()}
    for (_, label), y in zip(ends, spread(wanted, gap), strict=True):
        axes.annotate(
            label, (1, y), (6, 0), "axes fraction", "offset points", va="center", fontsize=9, color=colours[label],
            fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Move heights in [0, 1] apart until no two are nearer than ``gap``, each as little as possible, in their order.

    The least-squares answer: isotonic regression (pool adjacent violators) of ``wanted_i - i gap``, cut to
    ``[0, 1 - (n - 1) gap]``; heights too many to fit hang out below.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i], reverse=True)
    blocks: list[tuple[float, int]] = []  # from above: (mean of heights shifted up by rank * gap, how many)
    for rank, i in enumerate(order):
        blocks.append((wanted[i] + rank * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            (b, m), (a, n) = blocks.pop(), blocks.pop()
            blocks.append(((a * n + b * m) / (n + m), n + m))
    shifted = [mean for mean, count in blocks for _ in range(count)]
    floor = min(1.0, (len(wanted) - 1) * gap)
    heights = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        heights[i] = min(1.0, max(floor, shifted[rank])) - rank * gap
    return heights
