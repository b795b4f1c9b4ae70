"""One point of a sweep: a scenario of one arm, and the folder where its run belongs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmomentum.runs import Run, slug
from fedmomentum.runs.folder import STATUS
from fedmomentum.scenario import Arm, LoadedScenario, as_yaml
from fedmomentum.scenario.resolved import resolve

POINTS = "points"


@dataclass(frozen=True)
class Point:
    """A point of a sweep.

    Attributes:
        name: of the point in the sweep.
        loaded: the scenario of the point alone; ``fedmomentum run`` of it gives the same bits.
        folder: of its run, relative to the sweep's.
        settings: what the point changes, by dotted path.
    """

    name: str
    loaded: LoadedScenario
    folder: str
    settings: dict[str, Any]

    def run(self, sweep: Path) -> Run | None:
        """Give the run of the point if it ever began."""
        place = sweep / self.folder
        return Run(place) if (place / STATUS).is_file() else None

    def finished(self, sweep: Path) -> bool:
        """Say whether the point has run to its end, with exactly the settings that are wanted."""
        run = self.run(sweep)
        return run is not None and run.status.get("status") == "finished" and run.status.get("hash") == self.loaded.hash


def points_of(loaded: LoadedScenario, folders: Mapping[str, str]) -> list[Point]:
    """Give the points of a scenario in its order.

    Args:
        loaded: each of its arms is a point; claims stay with the whole.
        folders: where points have been put before, by name.
    """
    points = []
    for arm in loaded.arms:
        scenario = arm.scenario.model_copy(update={"expect": ()})
        text = as_yaml(resolve({"": scenario}, None))
        alone = LoadedScenario(scenario, (Arm("", scenario),), text, loaded.path, {})
        folder = folders.get(arm.name, f"{POINTS}/{slug(arm.name or loaded.scenario.name)}-{alone.hash[:8]}")
        points.append(Point(arm.name, alone, folder, _flat(arm.overrides)))
    return points


def _flat(changes: Mapping[str, Any], stem: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in changes.items():
        path = f"{stem}.{key}" if stem else key
        flat |= _flat(value, path) if isinstance(value, dict) and value else {path: value}
    return flat
