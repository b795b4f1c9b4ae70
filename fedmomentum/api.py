"""Run a scenario from Python: ``result = fm.run("scenarios/quickstart.yaml", overrides=["rounds=3"])``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedmomentum import scenario as scenarios
from fedmomentum.course import Course, Result
from fedmomentum.errors import UserError
from fedmomentum.events import Listener
from fedmomentum.runs import RunFolder, load_run
from fedmomentum.runs.folder import DEPLOYMENT, RESOLVED
from fedmomentum.runs.resuming import not_shortened, same_science

__all__ = ["Result", "course", "resume", "run"]


def course(loaded: scenarios.LoadedScenario, listeners: Sequence[Listener] = (), **where: Any) -> Course:
    """Give what runs a scenario of any kind; what a federation needs is not imported for the others.

    Args:
        loaded: the scenario.
        listeners: hear of every round.
        where: as :class:`fedmomentum.course.Course` takes it; ``actors`` is for federated runs alone.
    """
    if loaded.scenario.kind == "federated":
        from fedmomentum.running import Running

        return Running(loaded, listeners, **where)
    from fedmomentum.experiments.running import Experimenting

    where.pop("actors", None)
    return Experimenting(loaded, listeners, **where)


def run(
    path: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    out: str | os.PathLike[str] = "runs",
    listeners: Sequence[Listener] = (),
    profile: bool = False,
) -> Result:
    """Run a scenario file, arm by arm, and leave a run folder.

    Args:
        path: a YAML file, or the name of a scenario that comes with the package.
        overrides: ``"a.b=value"``, as ``--set`` takes them.
        out: folder of all runs.
        listeners: hear of every round; see :mod:`fedmomentum.events`.
        profile: write down where the time went, see :mod:`fedmomentum.runs.profile`.

    Raises:
        UserError: the scenario, or something that it names, is not as it should be; nothing was run then.
    """
    made = course(scenarios.load(path, list(overrides)), listeners, out=out)
    made.profile = profile
    return made.go()


def resume(
    path: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    listeners: Sequence[Listener] = (),
    profile: bool = False,
) -> Result:
    """Go on with a run from its last checkpoint, to the same bits as if it had never stopped.

    Args:
        path: a run folder, or that of a sweep.
        overrides: may change where and how the run is carried on (``engine.*``, ``checkpoint.*``) and extend it
            (``rounds``); every other setting is part of what the checkpoint belongs to.
        listeners: hear of every round.
        profile: write down where the time of the rounds that are run now went; not for a sweep.

    Raises:
        UserError: it is no run folder, another process is at it, its checkpoint is damaged or of another version, or an
            override changes what the run is about.
    """
    folder = Path(path)
    was = load_run(folder)
    if was.status.get("kind") == "sweep":
        from fedmomentum.sweeping import resume_sweep

        return resume_sweep(folder, overrides=overrides)
    if was.arm or not (folder / RESOLVED).exists():
        raise UserError(f"{folder}: not the folder of a whole run (it has no {RESOLVED}); give the run's own folder")
    if (folder / DEPLOYMENT).exists():
        raise UserError(f"{folder}: its clients are real; go on with: fedmomentum deploy --resume {folder}")
    loaded = scenarios.load(folder / RESOLVED, list(overrides))
    same_science(was, loaded.resolved())
    not_shortened(was, {arm.name: arm.scenario.rounds for arm in loaded.arms if hasattr(arm.scenario, "rounds")})
    made = course(loaded, listeners, folder=RunFolder(folder))
    made.profile = profile
    return made.go()
