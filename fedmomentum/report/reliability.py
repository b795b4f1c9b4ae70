"""The reliability diagram: how often predictions are right, against how sure they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fedmomentum.report.curves import without_seed
from fedmomentum.report.figure import FAINT, PALETTE, figure, head, save, style

if TYPE_CHECKING:
    from numpy.typing import NDArray

Table: TypeAlias = Mapping[str, Sequence[float | None]]

FILE = "reliability.json"
FEWEST = 10
"""Examples of a bin, over all seeds, from which its accuracy says something."""


def draw_reliability(arms: Mapping[str, Path], *, folder: Path, question: str) -> list[Path]:
    """Draw ``reliability.svg`` and ``.png`` of the arms whose folders hold what it takes; nothing where none does.

    The seeds of an arm are one curve, of all their predictions together; bins of few examples are left out.

    Args:
        arms: name -> folder of an arm.
        folder: where the pictures go.
        question: the title.
    """
    found: dict[str, list[Table]] = {}
    for name, path in arms.items():
        if (path / FILE).is_file():
            arm = without_seed(name)
            for what, table in json.loads((path / FILE).read_text()).items():
                found.setdefault(f"{arm}, {what}" if arm else what, []).append(table)
    curves = list(found.items())[: len(PALETTE)]
    if not curves:
        return []
    with style():
        made = figure(6.4, 5.6)
        axes = made.add_subplot()
        head(axes, question, "accuracy against confidence on the test set; on the line, predictions are calibrated")
        axes.plot([0, 1], [0, 1], "--", color=FAINT, linewidth=1)
        for (name, tables), colour in zip(curves, PALETTE, strict=False):
            line = "--" if name.endswith("model") and len(curves) > 1 else "-"
            axes.plot(*_pooled(tables).T, line, marker="o", color=colour, label=name, markersize=4, linewidth=1.4)
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="upper left")
        return save(made, folder, "reliability")


def _pooled(tables: Sequence[Table]) -> NDArray[Any]:
    """Give confidence and accuracy ``[bins, 2]`` of the predictions of several runs together, where there are many."""
    import numpy as np

    number = np.array([table["number"] for table in tables], float)
    sums = [
        np.nansum(number * np.array([table[key] for table in tables], float), axis=0)
        for key in ("confidence", "accuracy")
    ]
    total = number.sum(0)
    enough = total >= min(FEWEST, total.max())
    return np.stack([part[enough] / total[enough] for part in sums], axis=1)
