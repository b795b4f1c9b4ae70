"""The reliability diagram: how often predictions are right, against how sure they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fedmomentum.report.figure import FAINT, PALETTE, figure, head, save, style

FILE = "reliability.json"


def draw_reliability(arms: Mapping[str, Path], *, folder: Path, question: str) -> list[Path]:
    """Draw ``reliability.svg`` and ``.png`` of the arms whose folders hold what it takes; nothing where none does.

    Args:
        arms: name -> folder of an arm.
        folder: where the pictures go.
        question: the title.
    """
    found = {name: json.loads((path / FILE).read_text()) for name, path in arms.items() if (path / FILE).is_file()}
    curves = [
        (f"{name}, {what}".strip(", ") if name else what, of)
        for name, tables in found.items()
        for what, of in tables.items()
    ][: len(PALETTE)]
    if not curves:
        return []
    with style():
        made = figure(6.4, 5.6)
        axes = made.add_subplot()
        head(axes, question, "accuracy against confidence on the test set; on the line, predictions are calibrated")
        axes.plot([0, 1], [0, 1], "--", color=FAINT, linewidth=1)
        for (name, of), colour in zip(curves, PALETTE, strict=False):
            points = [(c, a) for c, a, n in zip(of["confidence"], of["accuracy"], of["number"], strict=True) if n]
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=name, markersize=4, linewidth=1.4)
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="upper left")
        return save(made, folder, "reliability")
