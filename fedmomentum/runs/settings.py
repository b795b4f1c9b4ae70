"""What each arm of a stored run was: its settings and its seed, taken apart from the resolved scenario."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmomentum.runs.read import Run, load_run

ABOUT = ("name", "question", "arms", "sweep", "expect", "checkpoint", "trackers", "seed")
"""Settings that say nothing of what an arm computes with a given seed."""

_SEED = re.compile(r"(?:^|,)seed=(\d+)(?=,|$)")


@dataclass(frozen=True)
class ArmRun:
    """One arm of a run, or a run that has no arms.

    Attributes:
        run: where its rows are.
        folder: of the whole run.
        scenario: name of the scenario.
        name: of the arm, ``""`` where the run has none.
        group: the name without its seed: several seeds of one arm share it.
        seed: of this arm.
        settings: every setting of this arm but its seed and what only describes it (``ABOUT``).
    """

    run: Run
    folder: Path
    scenario: str
    name: str
    group: str
    seed: int
    settings: dict[str, Any]


def arms_of(run: Run) -> list[ArmRun]:
    """Give the arms of a run with their settings; a run without arms is one, and so is the folder of a single arm.

    Raises:
        UserError: a file of the run cannot be read.
    """
    if run.arm:
        whole = load_run(run.path.parent.parent)
        return [arm_of(whole, run, run.arm)]
    return [arm_of(run, arm, name) for name, arm in run.arms.items()] or [arm_of(run, run, "")]


def arm_of(whole: Run, run: Run, name: str) -> ArmRun:
    """Give one arm, by its name, of a whole run, where ``run`` is the arm's part of it (or the same).

    Raises:
        UserError: the resolved scenario cannot be read.
    """
    scenario = whole.scenario
    own: Mapping[str, Any] = scenario.get("arms") or {}
    repeated = None
    group = name
    # "a,seed=3" is a seed of arm "a" (`sweep.seeds`), but for an arm that the scenario itself calls so.
    if name not in own and (found := _SEED.search(name)):
        group, repeated = _SEED.sub("", name).lstrip(","), int(found[1])
    settings = merge({key: value for key, value in scenario.items() if key != "arms"}, own.get(group) or {})
    seed = settings.get("seed", 0) if repeated is None else repeated
    group = _SEED.sub("", group).lstrip(",")  # of a grid, the seed may be one of the settings
    settings = {key: value for key, value in settings.items() if key not in ABOUT}
    return ArmRun(run, whole.path, str(scenario.get("name") or whole.name), name, group, int(seed), settings)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay nested changes over nested settings."""
    merged = dict(base)
    for key, value in changes.items():
        under = merged.get(key)
        merged[key] = merge(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged


def flat(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Give nested settings as dotted paths and their values; lists are values."""
    for key, value in settings.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from flat(value, here)
        else:
            yield here, value
