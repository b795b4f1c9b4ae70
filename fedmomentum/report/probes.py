"""The picture of what clients measured beside their training: one small plot a quantity."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedmomentum.report.charts import Chart, charts, spread_charts
from fedmomentum.report.figure import FAINT, INK, PALETTE, figure, save, style
from fedmomentum.report.gather import gather
from fedmomentum.report.measured import NOT_DRAWN, QUANTITIES, Quantity
from fedmomentum.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

COLUMNS = 3
MOST_ARMS = len(PALETTE)
"""Arms that are drawn; more cannot be told apart in small plots."""


def measured(run: Run) -> list[Chart]:
    """Give a chart of every quantity that clients measured: the median client of each round, and the middle 80 %."""
    arms = gather([run])[0].arms
    found = {chart.key: chart for chart in charts(arms)}
    found |= {chart.key.removeprefix("clients-"): chart for chart in spread_charts(arms)}
    return [
        found[key]
        for key in QUANTITIES
        if key in found and key not in NOT_DRAWN and (key.startswith("probe_") or _varies(found[key]))
    ]


def _varies(chart: Chart) -> bool:
    """Tell whether clients took numbers of their own: a learning rate that all share says nothing here."""
    curves = [series.curve for series in chart.series]
    return any(high > low for curve in curves for low, high in zip(curve.low, curve.high, strict=True))


def draw_probes(run: Run, *, folder: Path, question: str = "", name: str = "probes") -> list[Path]:
    """Draw what a run's clients measured into ``<name>.svg`` and ``<name>.png``; nothing where they measured nothing.

    Args:
        run: the run, all its arms.
        folder: where the pictures go; made where it is missing.
        question: title of the picture.
        name: file name without suffix.
    """
    made = measured(run)
    if not any(chart.key.removeprefix("clients-").startswith("probe_") for chart in made):
        return []
    rows = math.ceil(len(made) / COLUMNS)
    with style():
        page = figure(10.0, 0.9 + 2.3 * rows)
        axes = page.subplots(rows, COLUMNS, squeeze=False).flatten()
        for axis, chart in zip(axes, made, strict=False):
            _panel(axis, chart, QUANTITIES[chart.key.removeprefix("clients-")])
        for axis in axes[len(made) :]:
            axis.set_axis_off()
        names = _names(made)
        title = "\n".join(textwrap.wrap(question, 90, max_lines=3, placeholder=" …")) or "What clients measured"
        page.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
        if len(names) > 1:
            handles = [_handle(axes[0], PALETTE[index]) for index in names]
            page.legend(handles, list(names.values()), loc="outside lower center", ncols=min(len(names), 4), fontsize=8)
        return save(page, folder, name)


def _names(made: Sequence[Chart]) -> dict[int, str]:
    found = {s.index: s.curve.name for chart in made for s in chart.series if s.index < MOST_ARMS}
    return dict(sorted(found.items()))


def _handle(axis: Axes, colour: str) -> Line2D:
    return axis.plot([], [], color=colour)[0]


def _ticks(axis: Axes) -> None:
    """Write plain numbers beside a logarithmic axis: 1, 2 and 5 of each decade, or the decades where there are many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_ylim()
    few = high < 50 * low
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _panel(axis: Axes, chart: Chart, quantity: Quantity) -> None:
    """Draw one quantity: a line an arm, and a band from the 10th to the 90th percentile of its clients."""
    values: list[float] = []
    for series in chart.series:
        if series.index >= MOST_ARMS:
            continue
        curve, colour = series.curve, PALETTE[series.index]
        marker = "o" if len(curve.rounds) < 12 else None
        axis.plot(curve.rounds, curve.mean, color=colour, linewidth=1.6, marker=marker, markersize=3)
        axis.fill_between(curve.rounds, curve.low, curve.high, color=colour, alpha=0.13, linewidth=0)
        values += [v for v in (*curve.mean, *curve.low) if math.isfinite(v)]
    if quantity.log and values and min(values) > 0:
        axis.set_yscale("log")
        _ticks(axis)
    if quantity.landmark is not None:
        at, words = quantity.landmark
        axis.axhline(at, color=FAINT, linewidth=0.8, linestyle="--")
        axis.annotate(words, (1, at), (-2, 2), ("axes fraction", "data"), "offset points", ha="right", fontsize=7)
    axis.set_title(quantity.title, fontsize=9, pad=5)
    axis.set_ylabel(quantity.unit, fontsize=8)
    axis.set_xlabel("round", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(axis="y")
