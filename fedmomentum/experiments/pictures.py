"""Pictures of rules on problems: paths over contours, and losses over steps."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedmomentum.analogies.drawing import COLOURS, GREY, INK, RED, sheet
from fedmomentum.experiments.functions import Function
from fedmomentum.runs.findings import Finding

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
Paths = Mapping[str, np.ndarray[Any, np.dtype[np.float64]]]
Box = tuple[float, float, float, float]

MOST_POINTS = 2000
"""Points of a path that are drawn: more of them make a file larger, not a picture better."""
GRID = 240
FLOOR = 1e-4
"""Least error over the one allowed that is drawn: what is exact stands here."""


def draw_paths(function: Function, paths: Paths, rows: Rows, folder: Path, name: str, question: str) -> None:
    """Draw ``name.svg`` and ``name.png``: paths over the contours of a function of two coordinates, and the heights."""
    with sheet(folder, name, 2, width=10.5, height=4.6, width_ratios=[1.35, 1]) as (figure, (plane, curve)):
        title(figure, question)
        box = view(function, paths)
        contours(plane, function, box)
        for index, (arm, path) in enumerate(paths.items()):
            shown = inside(path, box)
            few = len(shown) <= 60
            plane.plot(
                *thin(shown).T, color=COLOURS[index % len(COLOURS)], linewidth=1.4, alpha=0.9, label=label(arm),
                marker="o" if few else None, markersize=2.2,
            )  # fmt: skip
        plane.plot(*paths[next(iter(paths))][0], "o", color=INK, markersize=5)
        plane.set(title="Paths", xlabel="x", ylabel="y")
        _losses(curve, rows, "height above the minimum")
        if len(paths) > 1:
            curve.legend(loc="best")


def draw_losses(rows: Rows, folder: Path, name: str, question: str) -> None:
    """Draw ``name.svg`` and ``name.png``: the loss over steps, and the accuracy where it was measured."""
    accurate = any("accuracy" in row for arm in rows.values() for row in arm)
    with sheet(folder, name, 2 if accurate else 1, width=9.5 if accurate else 6.0, height=4.0) as (figure, axes):
        title(figure, question)
        _losses(axes[0], rows, "test loss" if accurate else "height above the minimum")
        if accurate:
            for index, (arm, these) in enumerate(rows.items()):
                points = [(row["round"], row["accuracy"]) for row in these if "accuracy" in row]
                axes[1].plot(*zip(*points, strict=True), color=COLOURS[index % len(COLOURS)], label=label(arm))
            axes[1].set(title="Accuracy", xlabel="step", ylabel="test accuracy")
        if len(rows) > 1:
            axes[-1].legend(loc="best")


def title(figure: Figure, question: str) -> None:
    """Write the question over a figure, on as many lines as it takes."""
    width = int(9.5 * figure.get_size_inches()[0])
    figure.suptitle(textwrap.fill(question, width), x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)


def draw_findings(findings: Mapping[str, Sequence[Finding]], folder: Path, name: str, question: str) -> None:
    """Draw ``name.svg`` and ``name.png``: of each prediction of each arm its error, over the one that is allowed."""
    claims = list(dict.fromkeys(found["claim"] for arm in findings.values() for found in arm))[::-1]
    if not claims:
        return
    with sheet(folder, name, 1, width=8.5, height=1.3 + 0.27 * len(claims)) as (figure, (axes,)):
        title(figure, question)
        for index, (arm, these) in enumerate(findings.items()):
            errors = [max(_over(found), FLOOR) for found in these]
            places = [claims.index(found["claim"]) for found in these]
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(errors, places, "o", color=colour, label=label(arm), clip_on=False, markersize=5)
        axes.axvline(1, color=RED, linewidth=1)
        axes.set_yticks(range(len(claims)), claims, fontsize=8)
        axes.set(xscale="log", xlim=(FLOOR, max(10.0, axes.get_xlim()[1])), ylim=(-0.6, len(claims) - 0.4))
        axes.set_xlabel("error of the measurement / error allowed (right of the line a prediction fails)")
        if len(findings) > 1:
            axes.legend(loc="best")


def _over(found: Finding) -> float:
    error, allowed = found["relative_error"], found["tolerance"]
    if error is None:  # not finite, which JSON cannot say
        return math.inf
    return error / allowed if allowed > 0 else (0.0 if error == 0 else 1e3)


def _losses(axes: Axes, rows: Rows, what: str) -> None:
    for index, (arm, these) in enumerate(rows.items()):
        points = [(row["round"], row["loss"]) for row in these if _drawable(row.get("loss"))]
        if points:
            axes.plot(*zip(*points, strict=True), color=COLOURS[index % len(COLOURS)], label=label(arm))
            if points[-1][0] < these[-1]["round"]:
                axes.plot(*points[-1], "x", color=RED, markersize=7)  # from here on it is no number any more
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 1e-16), min(high, 1e12))
    axes.set(title="Loss", xlabel="step", ylabel=what)


def label(arm: str) -> str:
    """Name an arm in a legend; a scenario's only arm has no name."""
    return arm or "the rule"


def _drawable(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def contours(axes: Axes, function: Function, box: Box) -> None:
    """Draw the contours of a function in a box, evenly spaced in the logarithm of the height, and its minima."""
    left, right, bottom, top = box
    xs, ys = np.linspace(left, right, GRID), np.linspace(bottom, top, GRID)
    points = torch.from_numpy(np.stack(np.meshgrid(xs, ys), axis=-1))
    heights = np.log10(np.maximum(function.height(points).numpy(), 1e-12))
    low, high = np.quantile(heights, 0.002), heights.max()
    levels = np.linspace(low, high, 15)
    filled = axes.contourf(xs, ys, heights, levels=levels, cmap="Blues_r", alpha=0.55, extend="min")
    filled.set_rasterized(True)  # hundreds of kilobytes of polygons otherwise
    for x, y in function.minima:
        if left <= x <= right and bottom <= y <= top:
            axes.plot(x, y, "*", color=RED, markersize=11, markeredgecolor="white", markeredgewidth=0.6, zorder=5)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.grid(False)
    axes.tick_params(color=GREY)


def view(function: Function, paths: Paths) -> Box:
    """Choose the part of the plane to show: the start, the minima, and what sane paths visit."""
    starts = np.array([path[0] for path in paths.values()])
    minima = np.array(function.minima)
    frame = np.concatenate([starts, minima])
    spread = np.maximum(frame.max(0) - frame.min(0), 1e-9)
    spread = np.maximum(spread, 0.35 * spread.max())
    middle = (frame.max(0) + frame.min(0)) / 2
    reach = 1.5 * spread.max()
    near = [path[(np.abs(path - middle) < reach).all(1)] for path in paths.values()]
    every = np.concatenate([frame, *near])
    low, high = every.min(0), every.max(0)
    room = 0.08 * np.maximum(high - low, spread)
    (left, bottom), (right, top) = (low - room).tolist(), (high + room).tolist()
    return left, right, bottom, top


def inside(path: Any, box: Box) -> Any:
    """Give a path up to where it leaves what is drawn by far; a rule that diverges would bend every picture."""
    left, right, bottom, top = box
    reach = np.array([right - left, top - bottom])
    middle = np.array([(left + right) / 2, (bottom + top) / 2])
    with np.errstate(invalid="ignore"):
        far = ~(np.abs(path - middle) < 3 * reach).all(1)
    return path[: int(np.argmax(far)) + 1] if far.any() and not far[0] else path


def thin(path: Any) -> Any:
    """Leave out points of a long path, evenly."""
    return path[:: max(1, len(path) // MOST_POINTS)]
