"""What a finished run already knows: its model, and what its clients measured on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from fedmomentum.advising.advice import Findings
from fedmomentum.errors import UserError
from fedmomentum.runs import Run, load_parameters
from fedmomentum.runs.folder import MODEL
from fedmomentum.trees import Tree


def model_of(run: Run, arm: str) -> Tree:
    """Load the model that an arm of a run ended with.

    Raises:
        UserError: it saved none.
    """
    return load_parameters(_arm(run, arm).path / MODEL)


def sharpened(findings: Findings, run: Run, arm: str) -> Findings:
    """Raise the curvatures of findings to the largest that the run's clients measured in any round."""
    rows = _arm(run, arm).clients
    by_round: dict[int, list[float]] = {}
    for row in rows:
        value = row.get("probe_curvature")
        if isinstance(value, int | float) and math.isfinite(value):
            by_round.setdefault(int(row["round"]), []).append(float(value))
    if not by_round:
        return findings
    largest = max(max(values) for values in by_round.values())
    median = max(_median(values) for values in by_round.values())
    return replace(
        findings,
        where=f"{findings.where}; and by its clients in {len(by_round)} rounds",
        sharpest_client=max(findings.sharpest_client, largest),
        median_client=max(findings.median_client, median),
    )


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _arm(run: Run, arm: str) -> Run:
    if not run.arms:
        return run
    if arm not in run.arms:
        raise UserError(f"{run.path}: there is no arm '{arm}'; there are: {', '.join(run.arms)}")
    return run.arms[arm]
