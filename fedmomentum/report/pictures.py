"""Each plot of a report as PNG and SVG, in the style of the pictures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedmomentum.report.charts import AXES, Chart
from fedmomentum.report.curves import draw_curves
from fedmomentum.report.figure import CLASSES, figure, head, save, style
from fedmomentum.report.gather import Arm, Source
from fedmomentum.report.markup import text
from fedmomentum.report.participation import Participation, participations
from fedmomentum.report.partition import draw_partition
from fedmomentum.report.population import MOST_PICTURES, class_counts, split_label
from fedmomentum.report.results import phases
from fedmomentum.runs import slug

MOST_AXES = 2
"""Metrics that are drawn over time and bytes too: accuracy and loss, where both were measured."""


def draw_plots(sources: Sequence[Source], charts: Sequence[Chart], folder: Path) -> list[Path]:
    """Draw every plot of a report: curves over each axis, partitions, participation, the time of each phase.

    Args:
        sources: the runs.
        charts: the curves on the page.
        folder: where the pictures go; made where it is missing.
    """
    arms = [arm for source in sources for arm in source.arms]
    made = []
    for number, chart in enumerate(charts):
        for axis in chart.axes if number < MOST_AXES else chart.axes[:1]:
            made += _curves(chart, axis, folder)
    splits = [
        (split_label(source, record, len(sources)), counts)
        for source in sources
        for record in source.partitions
        if (counts := class_counts(record)) is not None
    ]
    for number, (label, counts) in enumerate(splits[:MOST_PICTURES], start=1):
        title = f"Who holds what: {text(label)}"
        made += draw_partition(counts, folder=folder, name=_numbered("partition", number), question=_plain(title))
    for number, part in enumerate(participations(arms)[:MOST_PICTURES], start=1):
        made += _participation(part, folder, _numbered("participation", number))
    return made + _time(arms, folder)


def _curves(chart: Chart, axis: str, folder: Path) -> list[Path]:
    curves = [replace(s.curve, name=_plain(s.curve.name), rounds=s.axes[axis]) for s in chart.series]
    metric = _plain(chart.key.removeprefix("clients-"))
    name = slug(chart.key) if axis == "round" else f"{slug(chart.key)}-{axis}"
    words = f"line: {'median' if chart.kind == 'spread' else 'mean of the seeds'}; band: {chart.band}"
    banded = any(max(curve.high, default=0.0) > max(curve.mean, default=0.0) for curve in curves)
    return draw_curves(
        curves, metric, folder=folder, name=name, question=_plain(chart.title), note=words if banded else "",
        axis=AXES[axis],
    )  # fmt: skip


def _participation(part: Participation, folder: Path, name: str) -> list[Path]:
    from matplotlib.colors import ListedColormap

    replied, failed = part.cells()
    with style():
        made = figure(7.2, 4.2)
        axes = made.add_subplot()
        extent = (0.5, part.rounds + 0.5, len(part.clients) - 0.5, -0.5)
        axes.imshow(replied, cmap="Blues", aspect="auto", interpolation="nearest", extent=extent, vmin=0)
        lost = np.ma.masked_equal(failed > 0, False)
        axes.imshow(lost, cmap=ListedColormap(["#c93a22"]), aspect="auto", interpolation="nearest", extent=extent)
        axes.set_xlabel("round")
        axes.set_ylabel("client")
        count = int(part.times_failed.sum())
        words = f"blue: took part; red: {count} replies that were not used" if count else "blue: took part"
        head(axes, _plain(f"Who took part: {'; '.join(part.arms[:6])}"), words)
        return save(made, folder, name)


def _time(arms: Sequence[Arm], folder: Path) -> list[Path]:
    found = phases(arms)
    if not found:
        return []
    names = list(dict.fromkeys(phase for parts in found.values() for phase in parts))
    rows = list(found)[:24]
    with style():
        made = figure(7.2, 1.6 + 0.32 * len(rows))
        axes = made.add_subplot()
        left = np.zeros(len(rows))
        for phase, colour in zip(names, CLASSES, strict=False):
            widths = np.array([found[row].get(phase, 0.0) for row in rows])
            axes.barh(range(len(rows)), widths, left=left, height=0.7, color=colour, label=phase.replace("_", " "))
            left += widths
        axes.set_yticks(range(len(rows)), [_plain(row) for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel("time (s)")
        head(axes, "Where the time went")
        made.legend(loc="outside lower center", ncols=min(5, len(names)))
        return save(made, folder, "time")


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _plain(name: str) -> str:
    """Keep matplotlib from reading a name as mathematics, and cut it where it is long."""
    return text(name, most=80).replace("$", r"\$")
