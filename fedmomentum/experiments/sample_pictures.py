"""The picture of ``kind: sample``: draws and ellipses in two dimensions, or moments beside the reference in many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmomentum.analogies.drawing import COLOURS, GREY, INK, sheet
from fedmomentum.experiments.experiment import Drawn
from fedmomentum.samplers.targets import banana
from fedmomentum.scenario.sample import SampleScenario

SERIES = "draws.npz"
MOST_ARMS = len(COLOURS) - 2


def draw(arms: Mapping[str, Drawn], folder: Path, question: str) -> None:
    """Draw ``draws.svg`` and ``draws.png``: what was drawn against what should be, and the variance of each arm."""
    shown = list(arms.items())[:MOST_ARMS]
    files = {name: dict(np.load(arm.folder / SERIES)) for name, arm in shown}
    size = len(next(iter(files.values()))["mean"])
    with sheet(folder, "draws", 2, width_ratios=[1.2, 1], height=4.2) as (figure, (left, right)):
        figure.suptitle(question, fontsize=11, x=0.01, ha="left")
        if size == 1 or size > 3:
            _moments(left, files)
        else:
            _plane(left, files, next(iter(arms.values())).scenario)
        if len(files) > 1:
            _ratios(right, files)
        else:
            _trace(right, next(iter(files.values())))


def _plane(axes: Any, files: Mapping[str, dict[str, Any]], scenario: Any) -> None:
    assert isinstance(scenario, SampleScenario)
    axes.set(title="Draws (first two coordinates); ellipses: two deviations", xlabel="$x_1$", ylabel="$x_2$")
    for of, colour in zip(files.values(), COLOURS, strict=False):
        points = of["draws"][:: max(1, len(of["draws"]) * len(files) // 1500)]
        axes.plot(points[:, 0], points[:, 1], "o", color=colour, markersize=1.8, alpha=0.35, markeredgewidth=0)
    first = next(iter(files.values()))
    if scenario.target.name == "banana":
        _valley(axes, scenario.target)
        for (name, _), colour in zip(files.items(), COLOURS, strict=False):
            axes.plot([], [], "o", color=colour, label=name or scenario.kernel.name)
        axes.legend(loc="upper left")
        return
    for (name, of), colour in zip(files.items(), COLOURS, strict=False):
        axes.plot(*ellipse(of["mean"], of["covariance"]), color=colour, linewidth=2, label=name or "draws")
    axes.plot(
        *ellipse(first["reference_mean"], first["reference_covariance"]), "--", color=INK, linewidth=1.3, label="target"
    )
    axes.legend(loc="upper left")


def _valley(axes: Any, target: Any) -> None:
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    x, y = np.meshgrid(np.linspace(x0, x1, 200), np.linspace(y0, y1, 200))
    law = banana(centre=target.centre, scale=target.scale, width=target.width)
    points = torch.from_numpy(np.stack([x, y], -1).reshape(-1, 2))
    height = torch.func.vmap(law.potential)({"x": points}).numpy().reshape(x.shape)
    axes.contour(x, y, height - height.min(), levels=[0.5, 2.0, 4.5], colors=INK, linewidths=0.8)


def ellipse(mean: Any, covariance: Any, *, deviations: float = 2.0) -> tuple[Any, Any]:
    """Give the ellipse of the first two coordinates at so many standard deviations."""
    angle = np.linspace(0, 2 * math.pi, 200)
    factor = np.linalg.cholesky(covariance[:2, :2])
    x, y = mean[:2, None] + deviations * factor @ np.stack([np.cos(angle), np.sin(angle)])
    return x, y


def _moments(axes: Any, files: Mapping[str, dict[str, Any]]) -> None:
    axes.set(title="Deviation of every weight", xlabel="of the reference", ylabel="of the draws")
    for (name, of), colour in zip(files.items(), COLOURS, strict=False):
        x, y = np.sqrt(np.diag(of["reference_covariance"])), np.sqrt(np.diag(of["covariance"]))
        axes.plot(x, y, "o", color=colour, label=name or "draws", alpha=0.8)
    low, high = min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], "--", color=INK, linewidth=1, label="equal")
    axes.legend(loc="upper left")


def _ratios(axes: Any, files: Mapping[str, dict[str, Any]]) -> None:
    axes.set(title="Total variance over the target's", xlabel="ratio")
    places = np.arange(len(files))[::-1]
    for place, (_, of), colour in zip(places, files.items(), COLOURS, strict=False):
        whole = np.trace(of["reference_covariance"])
        axes.plot(np.trace(of["covariance"]) / whole, place, "o", color=colour, markersize=7)
        if "predicted_covariance" in of:
            axes.plot(np.trace(of["predicted_covariance"]) / whole, place, "|", color=INK, markersize=18)
    if any("predicted_covariance" in of for of in files.values()):
        axes.plot([], [], "|", color=INK, markersize=10, linestyle="none", label="predicted")
    axes.plot([], [], "o", color=GREY, linestyle="none", label="measured")
    axes.axvline(1.0, color=GREY, linewidth=0.8)
    axes.set_yticks(places, list(files))
    axes.set_ylim(-0.6, len(files) - 0.4)
    axes.legend(loc="best")


def _trace(axes: Any, of: dict[str, Any]) -> None:
    axes.set(title="First coordinate of some chains", xlabel="draw", ylabel="$x_1$")
    for chain, colour in zip(of["trace"].T, COLOURS, strict=False):
        axes.plot(chain, color=colour, linewidth=0.7, alpha=0.8)
