"""Run a scenario from Python: ``result = fm.run("scenarios/quickstart.yaml", overrides=["rounds=3"])``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmomentum.events import End, Listener, Start
from fedmomentum.runs import Recorder, RunFolder, provenance
from fedmomentum.scenario import Expectation, LoadedScenario, check_expectations, load

if TYPE_CHECKING:
    from fedmomentum.build import Federation
    from fedmomentum.scenario import Arm


@dataclass
class Result:
    """What a run gave, and where it lies.

    Attributes:
        folder: the run folder.
        arms: rows of metrics by arm, one a round (round 0 is the model at the start); a scenario without arms has one, ``""``.
        status: ``finished``, ``interrupted`` or ``failed``.
        expectations: the claims of ``expect:`` with what was measured.
        warnings: what a user should know.
    """

    name: str
    folder: Path
    arms: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    status: str = "running"
    expectations: list[Expectation] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Give every row of every arm: ``pandas.DataFrame(result.metrics)`` is a table."""
        return [{"arm": arm, **row} for arm, rows in self.arms.items() for row in rows]
