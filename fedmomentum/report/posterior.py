"""Draws of federated samplers beside the Gaussian that they should come from, and their moments beside their law's."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmomentum.report.figure import FAINT, INK, PALETTE, figure, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "posterior.json"
ERRORS = 4.0
"""Monte-Carlo errors that a prediction's bar is long, either way."""


def draw_posterior(arms: Mapping[str, Path], *, folder: Path, question: str) -> list[Path]:
    """Draw ``posterior.svg`` and ``.png`` of the arms whose folders hold what it takes; nothing where none does.

    Args:
        arms: name -> folder of an arm.
        folder: where the pictures go.
        question: the title.
    """
    found = {name: json.loads((path / FILE).read_text()) for name, path in arms.items() if (path / FILE).is_file()}
    shown = dict(list(found.items())[: len(PALETTE)])
    if not shown:
        return []
    with style():
        made = figure(12.0, 4.8)
        plane, mean, spread = made.subplots(1, 3, width_ratios=[1.25, 1, 1])
        made.suptitle(question, fontsize=12, fontweight="bold", x=0.01, ha="left")
        _plane(plane, shown)
        _moments(mean, shown, 0, "Where the draws' mean is", "distance to the posterior's, in its deviations")
        _moments(spread, shown, 1, "How wide the draws are", "variance over the posterior's")
        spread.set_yticklabels([])
        spread.axvline(1.0, color=FAINT, linewidth=0.8)
        mean.plot([], [], "|", color=INK, markersize=11, markeredgewidth=1.6, linestyle="none", label="predicted")
        mean.plot([], [], "-", color=INK, linewidth=5, alpha=0.25, label="± 4 Monte-Carlo errors")
        mean.plot([], [], "o", color=FAINT, linestyle="none", label="measured")
        made.legend(*mean.get_legend_handles_labels(), loc="outside lower right", ncols=3)
        return save(made, folder, "posterior")


def _plane(axes: Axes, arms: Mapping[str, Any]) -> None:
    import numpy as np

    target = next(iter(arms.values()))["target"]
    for (name, of), colour in zip(arms.items(), PALETTE, strict=False):
        points = np.array(of["points"])
        if points.shape[1] < 2:
            points = np.column_stack([points, np.zeros(len(points))])
        still = np.ptp(points, axis=0).max() <= 1e-5 * max(1.0, np.abs(points).max())
        if still:
            axes.plot(*points[-1], "X", color=colour, markersize=9, label=name or "model", zorder=4)
            continue
        target = of["target"]  # a point has none of its own: its temperature is nobody's
        axes.plot(*points.T, "o", color=colour, markersize=2, alpha=0.3, markeredgewidth=0)
        axes.plot(*_ellipse(of["draws"]), color=colour, linewidth=1.8, label=name or "draws")
    axes.plot(*_ellipse(target), "--", color=INK, linewidth=1.3, label="posterior")
    axes.set_title("Draws, and ellipses of two deviations", fontsize=10, fontweight="normal")
    axes.set(xlabel="first weight", ylabel="second weight")
    axes.legend(loc="best", fontsize=8)


def _ellipse(of: Mapping[str, Any], *, deviations: float = 2.0) -> tuple[Any, Any]:
    import numpy as np

    angle = np.linspace(0, 2 * math.pi, 200)
    centre, covariance = np.array(of["mean"]), np.array(of["covariance"])
    if len(centre) < 2:
        centre, covariance = np.append(centre, 0.0), np.diag([covariance[0, 0], 0.0])
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values.clip(min=0))
    x, y = centre[:, None] + deviations * root @ np.stack([np.cos(angle), np.sin(angle)])
    return x, y


def _moments(axes: Axes, arms: Mapping[str, Any], which: int, title: str, label: str) -> None:
    """Draw one number of every arm, measured and predicted; of the first, squares are kept and roots shown."""
    import numpy as np

    def shown(value: float) -> float:
        return math.sqrt(max(value, 0.0)) if which == 0 else value

    places = np.arange(len(arms))[::-1]
    for place, of, colour in zip(places, arms.values(), PALETTE, strict=False):
        if which < len(of["errors"]):
            value, error = of["errors"][which]
            ends = [shown(value - ERRORS * error), shown(value + ERRORS * error)]
            axes.plot(ends, [place, place], "-", color=INK, linewidth=5, alpha=0.25, solid_capstyle="butt")
            axes.plot(shown(value), place, "|", color=INK, markersize=17, markeredgewidth=1.6)
        axes.plot(shown(of["measured"][which]), place, "o", color=colour, markersize=7)
    axes.set_title(title, fontsize=10, fontweight="normal")
    axes.set(xlabel=label, ylim=(-0.6, len(arms) - 0.4))
    axes.set_yticks(places, [name or "draws" for name in arms])
    axes.set_xlim(left=0)
