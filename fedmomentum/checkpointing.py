"""The checkpoints of an arm of a run: what goes into them, and how a run goes on from one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fedmomentum.runs import RunFolder
from fedmomentum.runs.checkpoint import latest_checkpoint, save_checkpoint
from fedmomentum.simulation.flower import to_arrays, to_record


@dataclass(frozen=True)
class Restart:
    """Where an arm goes on."""

    round: int
    elapsed: float
    state: dict[str, Any]

    def restore(self, strategy: Any, grid: Any) -> Any:
        """Set strategy and engine to where they were, and give the model as a record of arrays."""
        strategy.load_state_dict(self.state["strategy"])
        grid.load_state_dict(self.state["grid"])
        return to_record({name: tensor.numpy() for name, tensor in self.state["arrays"].items()})


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
        return None if found is None else Restart(found[0], float(found[1]["elapsed"]), found[1])

    def save(self, server_round: int, arrays: Any, strategy: Any, grid: Any, elapsed: float) -> bool:
        """Write a checkpoint; False where the strategy cannot say what its state is (Flower's own cannot)."""
        if not hasattr(strategy, "state_dict"):
            return False
        state = {
            "arrays": _tensors(arrays),
            "strategy": strategy.state_dict(),
            "grid": grid.state_dict(),
            "elapsed": elapsed,
        }
        save_checkpoint(self._folder.path, server_round, state, keep=self._scenario.checkpoint.keep)
        return True

    def export(self, arrays: Any, server_round: int) -> None:
        """Write the model as ``model.safetensors``."""
        self._folder.save_parameters(_tensors(arrays), scenario=self._name, round=server_round)


def _tensors(arrays: Any) -> dict[str, Any]:
    return {name: torch.from_numpy(value.copy()) for name, value in to_arrays(arrays).items()}
