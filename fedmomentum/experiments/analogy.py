"""``kind: analogy``: run the experiment of a system, and put its claims into one row of metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fedmomentum.analogies import ANALOGIES, Measured, run
from fedmomentum.experiments.experiment import Drawn, Kind
from fedmomentum.runs.atomic import write_with
from fedmomentum.runs.findings import Finding, finding, read_findings
from fedmomentum.scenario.analogy import AnalogyScenario

SERIES = "series.npz"
MOST_ENGINE_ROUNDS = 260
"""Rounds that go through the engine, one message a client and round."""


class AnalogyExperiment:
    """One analogy with the options of a scenario; it gives one row."""

    steps = 1

    def __init__(self, scenario: AnalogyScenario) -> None:
        """Take the scenario."""
        self.name = scenario.system.name
        self.options = options(scenario)
        self.measured: Measured | None = None

    def facts(self) -> Mapping[str, object]:
        """Say which system it is and what it claims."""
        return {"system": self.name, "says": ANALOGIES[self.name].says}

    def rows(self) -> Iterator[Mapping[str, float]]:
        """Run the experiment; that of server momentum is done once more through the engine."""
        self.measured = run(self.name, **self.options)
        if self.name == "server_momentum" and (engine := _engine()) is not None:
            claims = engine.claims(**self.options | {"rounds": min(self.options["rounds"], MOST_ENGINE_ROUNDS)})
            self.measured = replace(self.measured, claims=(*self.measured.claims, *claims))
        yield {"round": 1, **metrics(self.measured)}

    def findings(self) -> Sequence[Finding]:
        """Give the claims."""
        return [] if self.measured is None else [finding(row) for row in self.measured.rows()]

    def save(self, folder: Path) -> None:
        """Write the curves of the experiment as ``series.npz``."""
        if self.measured is not None and self.measured.series:
            curves: dict[str, Any] = dict(self.measured.series)
            write_with(folder / SERIES, lambda path: _savez(path, curves))


def _engine() -> ModuleType | None:
    """Give what measures through the engine, where there is one: it needs flwr."""
    if find_spec("flwr") is None:
        return None
    return import_module("fedmomentum.experiments.federated_quadratics")


def options(scenario: AnalogyScenario) -> dict[str, Any]:
    """Give the options of the experiment; its seed is the scenario's."""
    wanted = {key: value for key, value in scenario.system.model_dump(exclude={"name"}).items() if value is not None}
    seeded = "seed" in ANALOGIES[scenario.system.name].options
    return {**wanted, **({"seed": scenario.seed} if seeded else {})}


def metrics(measured: Measured) -> dict[str, float]:
    """Give the claims as one row: a column for each measurement, its prediction and its error, and the worst of all.

    Columns: ``damping_ratio``, ``damping_ratio_predicted``, ``damping_ratio_error`` and so on, named after the claims;
    ``relative_error``: the largest; ``error_over_allowed``: the largest of the errors over their tolerances (a claim
    holds up to 1; exact claims count as 0 or infinity); ``predictions`` and ``holding``: how many there are, how many
    hold.
    """
    row: dict[str, float] = {
        "relative_error": max(claim.relative_error for claim in measured),
        "error_over_allowed": max(_over(claim.relative_error, claim.tolerance) for claim in measured),
        "predictions": len(measured.claims),
        "holding": sum(claim.holds for claim in measured),
    }
    for claim in measured:
        name = column(claim.name)
        row |= {name: claim.measured, f"{name}_predicted": claim.predicted, f"{name}_error": claim.relative_error}
    return row


def column(claim: str) -> str:
    """Name the column of a claim: ``gain at 0.05 rad/step`` -> ``gain_at_0.05_rad_step``."""
    return re.sub(r"[^\w.^*+-]+", "_", claim.lower()).strip("_")


def draw(arms: Mapping[str, Drawn], folder: Path, question: str) -> None:
    """Draw the picture of each system, and one of what was predicted and measured with the settings of the arms.

    The picture of a system is that of the settings in which all its arms agree.
    """
    from fedmomentum.experiments.pictures import draw_findings

    settings: dict[str, list[dict[str, Any]]] = {}
    for arm in arms.values():
        if isinstance(arm.scenario, AnalogyScenario):
            settings.setdefault(arm.scenario.system.name, []).append(options(arm.scenario))
    for system, many in settings.items():
        agreed = {key: value for key, value in many[0].items() if all(other.get(key) == value for other in many)}
        ANALOGIES[system].draw(folder, **agreed)
    draw_findings({name: read_findings(arm.folder) for name, arm in arms.items()}, folder, "predictions", question)


def _over(error: float, allowed: float) -> float:
    return error / allowed if allowed > 0 else (0.0 if error == 0 else float("inf"))


def _savez(path: Path, curves: dict[str, Any]) -> None:
    with path.open("wb") as stream:
        np.savez_compressed(stream, **curves)


KIND = Kind(AnalogyExperiment, draw)
