"""Candidates of a comparison in one picture: the metric against rounds, and against what was sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmomentum.report.figure import FAINT, PALETTE, figure, head, save, style
from fedmomentum.report.numbers import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fedmomentum.runs.compare import Candidate, Comparison, Point

MEGABYTE = 1e6


def draw_comparison(comparison: Comparison, *, folder: Path, name: str | None = None, question: str = "") -> list[Path]:
    """Draw every candidate's metric against rounds and against megabytes into ``<name>.svg`` and ``<name>.png``.

    A line is the mean over seeds in a band from the lowest to the highest, drawn where every seed was measured and is
    finite. The target is a dotted line. Without counted bytes there is no second panel.

    Args:
        comparison: what to draw.
        folder: where the pictures go; made where it is missing.
        name: file name without suffix; by default ``compare-<metric>``.
        question: title of the picture.

    Returns:
        The two files, or nothing where no candidate has a finite value in every seed.
    """
    bundles = [(one, _bundle(one)) for one in comparison.candidates]
    bundles = [(one, bundle) for one, bundle in bundles if bundle]
    if not bundles:
        return []
    counted = all(math.isfinite(point.bytes) for _, bundle in bundles for points in bundle for point in points)
    with style():
        made = figure(10.4 if counted else 6.4, 4.2 + 0.22 * math.ceil(len(bundles) / 2))
        panels = made.subplots(1, 2 if counted else 1, sharey=True, squeeze=False)[0]
        for (one, bundle), (colour, dash) in zip(bundles, _looks(len(bundles)), strict=True):
            label = f"{one.label}  {number(one.final.mean) if math.isfinite(one.final.mean) else 'diverged'}"
            for axes, xs in zip(panels, _places(bundle), strict=False):
                _draw(axes, xs, bundle, colour, dash, label)
        for axes, words in zip(panels, ("round", "MB sent, down and up"), strict=False):
            axes.set_xlabel(words)
            axes.grid(axis="y")
            axes.margins(x=0.02)
            if comparison.target is not None:
                axes.axhline(comparison.target, color=FAINT, linewidth=1, linestyle=":")
        values = [point.value for _, bundle in bundles for points in bundle for point in points]
        if min(values) > 0 and max(values) / min(values) > 100:
            panels[0].set_yscale("log")
        panels[0].set_ylabel(comparison.metric.replace("_", " "))
        several = max(len(one.outcomes) for one in comparison.candidates) > 1
        head(panels[0], question, "line: mean over seeds; band: lowest to highest" if several else "")
        handles, labels = panels[0].get_legend_handles_labels()
        made.legend(handles, labels, loc="outside lower center", ncols=2)
        return save(made, folder, name or f"compare-{comparison.metric.replace('/', '-')}")


def _bundle(one: Candidate) -> list[list[Point]]:
    """Give, for each round in which every seed has a finite value, the points of all seeds."""
    by_round = [{p.round: p for p in outcome.points if math.isfinite(p.value)} for outcome in one.outcomes]
    rounds = sorted(set.intersection(*(set(points) for points in by_round)))
    return [[points[n] for points in by_round] for n in rounds]


def _places(bundle: Sequence[Sequence[Point]]) -> tuple[list[float], list[float]]:
    """Give where on the two axes the points of a bundle stand: the round, and mean megabytes."""
    megabytes = [math.fsum(point.bytes for point in points) / len(points) / MEGABYTE for points in bundle]
    return [float(points[0].round) for points in bundle], megabytes


def _draw(
    axes: Axes, xs: Sequence[float], bundle: Sequence[Sequence[Point]], colour: Any, dash: str, label: str
) -> None:
    values = [[point.value for point in points] for points in bundle]
    means = [math.fsum(v) / len(v) for v in values]
    dots = "o" if len(xs) <= 15 else ""
    axes.plot(list(xs), means, dash, color=colour, linewidth=1.8, label=label, marker=dots, markersize=4)
    if len(values[0]) > 1:
        low, high = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(list(xs), low, high, color=colour, alpha=0.16, linewidth=0)


def _looks(count: int) -> list[tuple[Any, str]]:
    if count <= len(PALETTE):
        return [(PALETTE[i], "-") for i in range(count)]
    return [(PALETTE[i % len(PALETTE)], ("-", "--", ":", "-.")[i // len(PALETTE) % 4]) for i in range(count)]
