"""What an experiment is: anything that a scenario describes and that gives rows, other than a federated training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from fedmomentum.runs.findings import Finding
from fedmomentum.scenario.shape import AnyScenario


class Experiment(Protocol):
    """One arm of a scenario. Making it finds every fault that the schema cannot see (:class:`UserError`)."""

    @property
    def steps(self) -> int:
        """The ``round`` of the last row, for progress and the time that is left."""

    def facts(self) -> Mapping[str, object]:
        """Say what was chosen, for the run folder and the first line on the screen; ``data_checksum`` among them."""

    def rows(self) -> Iterator[Mapping[str, float]]:
        """Do the work: give a row of metrics now and then, each with its ``round``, which only rises.

        It is stopped between two rows. The runner adds ``seconds`` and ``elapsed``.
        """

    def findings(self) -> Sequence[Finding]:
        """Give, once the rows are through, predictions beside what was measured; none is an answer."""

    def save(self, folder: Path) -> None:
        """Leave in the arm's folder what the pictures need, once the rows are through."""


@runtime_checkable
class Resumable(Protocol):
    """An experiment that can go on from a checkpoint; one that cannot begins its arm anew, to the same bits."""

    def state_dict(self) -> dict[str, Any]:
        """Give all that ``rows`` needs to go on after the last row that it gave: tensors, numbers, dicts, lists."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set everything to where it was; ``rows`` goes on behind it."""


@dataclass(frozen=True)
class Drawn:
    """An arm that is to be drawn: its scenario, and the folder in which its experiment left what the picture needs."""

    scenario: AnyScenario
    folder: Path
    rows: Sequence[Mapping[str, Any]]


class Kind(NamedTuple):
    """A kind of scenario, as the runner needs it.

    Args:
        make: scenario of an arm -> experiment.
        draw: all arms that ran, the folder of pictures, the question -> pictures in that folder. They are made of
            files alone, so that a run that was gone on with is drawn like one that went straight through.
    """

    make: Callable[[Any], Experiment]
    draw: Callable[[Mapping[str, Drawn], Path, str], None]
