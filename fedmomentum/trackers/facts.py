"""What is told to every tracker, in its plainest form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedmomentum.errors import UserError
from fedmomentum.events import RoundEnd
from fedmomentum.runs import Run
from fedmomentum.runs.settings import arm_of, flat


def scalars(event: RoundEnd) -> dict[str, float]:
    """Give every number of a round under the name that it has in ``metrics.jsonl``, but the round itself."""
    timed = {f"seconds_{phase}": seconds for phase, seconds in event.seconds_by_phase.items()}
    row = {**event.metrics, **timed}
    return {k: float(v) for k, v in row.items() if k != "round" and isinstance(v, int | float)}


def client_columns(event: RoundEnd) -> Iterator[tuple[str, list[float]]]:
    """Give the finite values of each column of the clients' table, but who they are."""
    for name, values in event.clients.items():
        finite = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
        if name != "client" and finite:
            yield name, finite


def settings(folder: Path, arm: str) -> dict[str, Any]:
    """Give the settings of an arm, seed included, by dotted paths; none where the folder does not tell them."""
    run = Run(folder)
    try:
        found = arm_of(run, run, arm)
    except UserError:
        return {}
    return {"seed": found.seed, **dict(flat(found.settings))} if found.settings else {}
