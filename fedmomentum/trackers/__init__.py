"""Listeners that tell a run to an experiment tracker: TensorBoard, MLflow, Weights & Biases.

Each needs an extra (``pip install 'fedmomentum[tensorboard]'``), is imported when it is asked for, keeps what it is
told on this machine unless its options say otherwise, and is dropped with one warning where it fails: the run goes on.
"""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from fedmomentum.errors import UserError
from fedmomentum.events import Listener
from fedmomentum.trackers.guard import Guarded
from fedmomentum.trackers.replay import replay

__all__ = ["TRACKERS", "Guarded", "Kind", "make_tracker", "prepare", "replay"]


class Kind(NamedTuple):
    """Where a tracker's code is, and what it needs; the extra to install has the tracker's name."""

    module: str
    factory: str
    needs: tuple[str, ...]


TRACKERS = {
    "tensorboard": Kind("fedmomentum.trackers.tensorboard", "TensorBoardTracker", ("tensorboard", "torch")),
    "mlflow": Kind("fedmomentum.trackers.mlflow", "MLflowTracker", ("mlflow",)),
    "wandb": Kind("fedmomentum.trackers.wandb", "WandbTracker", ("wandb",)),
}
"""Every tracker by its name."""


def prepare(name: str, **options: object) -> Callable[[str | os.PathLike[str]], Guarded]:
    """Check that a tracker can be made, before there is a run, and give the function that makes it for a run folder.

    Args:
        name: one of ``TRACKERS``.
        options: of the tracker; see its class.

    Raises:
        UserError: there is no such tracker or option, or its package is not installed.
    """
    if name not in TRACKERS:
        near = difflib.get_close_matches(name, TRACKERS, 1)
        guess = f"; did you mean '{near[0]}'?" if near else ";"
        raise UserError(f"tracker: there is no '{name}'{guess} there are {', '.join(TRACKERS)}")
    kind = TRACKERS[name]
    for package in kind.needs:
        try:
            import_module(package)
        except ImportError as error:
            raise UserError(
                f"tracker '{name}' needs {package}, which cannot be imported ({error}): "
                f"pip install 'fedmomentum[{name}]'"
            ) from error
    factory = getattr(import_module(kind.module), kind.factory)
    takes = list(inspect.signature(factory).parameters)[1:]
    if unknown := sorted(options.keys() - set(takes)):
        raise UserError(f"tracker '{name}' has no option {', '.join(unknown)}; it takes {', '.join(takes)}")

    def make(folder: str | os.PathLike[str]) -> Guarded:
        inner: Listener = factory(Path(folder), **options)
        return Guarded(name, inner)

    return make


def make_tracker(name: str, folder: str | os.PathLike[str], **options: object) -> Guarded:
    """Make a tracker of a run by its name, guarded so that it cannot break the run.

    Args:
        name: one of ``TRACKERS``.
        folder: the run folder; settings are read from it, and what stays on this machine goes into it or beside it.
        options: of the tracker; see its class.

    Raises:
        UserError: there is no such tracker or option, or its package is not installed.
    """
    return prepare(name, **options)(folder)
