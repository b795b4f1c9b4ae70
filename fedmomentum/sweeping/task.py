"""What a sweep and its worker processes say to each other, pickled, over the worker's stdin and stdout."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fedmomentum.scenario import LoadedScenario


@dataclass(frozen=True)
class Task:
    """Run a point, or go on with it where its folder is a run folder already."""

    name: str
    loaded: LoadedScenario
    folder: Path
    address: str | None = None
    """Of the Ray that the points share."""
    workers: int | None = None
    """Ray actors of the point where its scenario leaves their number open."""
    argv: tuple[str, ...] = ()
    """The command line of the sweep, for ``provenance.json``."""


@dataclass(frozen=True)
class Stop:
    """Finish the round that is under way, and keep it."""


@dataclass(frozen=True)
class Answer:
    """What became of a point; its metrics are in its folder.

    Attributes:
        status: ``finished``, ``interrupted`` or ``failed``.
        message: why it failed.
        fault: whether that is a :class:`~fedmomentum.errors.UserError`: other points would meet it as well.
        warnings: of the run.
    """

    status: str
    message: str = ""
    fault: bool = False
    warnings: list[str] = field(default_factory=list)
