"""The checkpoints of an arm of a run: what goes into them, and how a run goes on from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmomentum.errors import UserError
from fedmomentum.runs import RunFolder
from fedmomentum.runs.atomic import sync, writing
from fedmomentum.runs.checkpoint import latest_checkpoint, save_checkpoint
from fedmomentum.runs.folder import CLIENTS, FAILURES, METRICS
from fedmomentum.strategies.records import record, shared, views


@dataclass(frozen=True)
class Restart:
    """Where an arm goes on."""

    round: int
    elapsed: float
    state: dict[str, Any]
    place: Path
    """Of the run, or its arm."""

    def restore(self, strategy: Any, grid: Any, first: Any) -> Any:
        """Set strategy and engine to where they were, and give the model as a record of arrays.

        Args:
            strategy: takes its state.
            grid: takes what its clients kept.
            first: the model that the scenario begins with.

        Raises:
            UserError: the checkpoint is of another model, or of another state than this strategy has.
        """
        try:
            arrays = self.state["arrays"]
            was, now = _layout({n: x.numpy() for n, x in arrays.items()}), _layout(views(first))
            differ = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
            if differ:
                name = differ[0]
                raise UserError(
                    f"{self.place}: a checkpoint of another model: '{name}' is {was.get(name, 'not there')} in it, and "
                    f"{now.get(name, 'not there')} in the model that the scenario makes today"
                )
            strategy.load_state_dict(self.state["strategy"])
            grid.load_state_dict(self.state["grid"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self.place}: the checkpoint does not fit this scenario ({type(error).__name__}: {error})"
            ) from error
        return record(arrays)


def _layout(arrays: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{array.dtype}{list(array.shape)}" for name, array in arrays.items()}


class ArmCheckpoints:
    """The checkpoints of one arm of a run: parameters, strategy, what clients kept, and time spent.

    Random streams need no place in it: they are named by seed and round (:mod:`fedmomentum.streams`).
    """

    def __init__(self, folder: RunFolder, scenario: Any, name: str) -> None:
        """Take the folder of an arm and its scenario."""
        self._folder, self._scenario, self._name = folder, scenario, name

    def latest(self) -> Restart | None:
        """Give where the arm goes on; None where it has to begin anew.

        Raises:
            UserError: there are checkpoints, and none can be read.
        """
        found = latest_checkpoint(self._folder.path)
        if found is None:
            return None
        elapsed = found[1].get("elapsed")
        return Restart(found[0], elapsed if isinstance(elapsed, float) else 0.0, found[1], self._folder.path)

    def save(self, server_round: int, arrays: Any, strategy: Any, grid: Any, elapsed: float, more: Any = None) -> bool:
        """Write a checkpoint, with the state of ``more``; False where the strategy cannot say what its state is."""
        known = strategy.state_dict() if hasattr(strategy, "state_dict") else None
        if known is None:
            return False
        state = {
            "arrays": _tensors(arrays),
            "strategy": known,
            "grid": grid.state_dict(),
            "elapsed": elapsed,
        }
        if more is not None:
            state["more"] = more.state_dict()
        for table in (METRICS, CLIENTS, FAILURES):  # what a checkpoint stands behind must outlive a power cut as well
            if (rows := self._folder.path / table).exists():
                with writing(rows):
                    sync(rows)
        save_checkpoint(self._folder.path, server_round, state, keep=self._scenario.checkpoint.keep)
        return True

    def export(self, arrays: Any, server_round: int) -> None:
        """Write the model as ``model.safetensors``."""
        self._folder.save_parameters(_tensors(arrays), scenario=self._name, round=server_round)


def _tensors(arrays: Any) -> dict[str, Any]:
    return shared(views(arrays))  # to be written, and to nothing else: no copy
