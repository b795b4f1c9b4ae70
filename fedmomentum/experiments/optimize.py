"""``kind: optimize``: follow a rule down a problem, and keep its path."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fedmomentum.errors import UserError
from fedmomentum.experiments.experiment import Drawn, Kind
from fedmomentum.experiments.functions import Function
from fedmomentum.experiments.training import TrainingTask
from fedmomentum.optim import make_rule
from fedmomentum.optim.transforms import chain, clip_by_norm
from fedmomentum.runs.atomic import write_with
from fedmomentum.runs.findings import Finding
from fedmomentum.scenario.optimize import OptimizeScenario, Training
from fedmomentum.translate import optimizer
from fedmomentum.trees import Tree, add

PATH = "path.npz"


class Task(Protocol):
    """What is minimised, as the loop below sees it."""

    def facts(self) -> Mapping[str, object]:
        """Say what it is."""

    def start(self) -> Tree:
        """Give the parameters that every rule starts from."""

    def gradient(self, params: Tree, step: int) -> Tree:
        """Give the gradient in a step (from 1): of a function with its noise, of a model on the step's minibatch."""

    def measure(self, params: Tree) -> dict[str, float]:
        """Give the metrics of a row."""

    def point(self, params: Tree) -> Tensor | None:
        """Give the place to draw, ``[n]``; None where there are too many coordinates for a picture."""

    def state_dict(self) -> dict[str, Any]:
        """Give what it keeps beside the parameters."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set that to where it was."""


class OptimizeExperiment:
    """One rule on one problem; a row every so many steps, and the last."""

    def __init__(self, scenario: OptimizeScenario) -> None:
        """Make the problem and the rule."""
        self.scenario, self.steps = scenario, scenario.steps
        if scenario.animation == "mp4" and shutil.which("ffmpeg") is None:
            raise UserError("animation: mp4 needs ffmpeg, which is not on this machine; take gif")
        problem = scenario.problem
        self.task: Task
        if isinstance(problem, Training):
            self.task = TrainingTask(problem, scenario.seed)
        else:
            self.task = Function(problem, scenario.seed)
        rule = make_rule(**optimizer(scenario.optimizer))
        self.rule = rule if scenario.clip_norm is None else chain(clip_by_norm(scenario.clip_norm), rule)
        self.params = self.task.start()
        self.state = self.rule.init(self.params)
        self.step = 0
        self.path: list[Tensor] = []

    def facts(self) -> Mapping[str, object]:
        """Say what the problem and the rule are."""
        return {"problem": self.scenario.problem.name, "rule": self.scenario.optimizer.name, **self.task.facts()}

    def rows(self) -> Iterator[Mapping[str, float]]:
        """Step, and measure now and then."""
        if self.step == 0:
            self._note()
            yield {"round": 0, **self.task.measure(self.params)}
        while self.step < self.steps:
            self.step += 1
            grads = self.task.gradient(self.params, self.step)
            updates, self.state = self.rule.update(grads, self.state, self.params)
            self.params = add(self.params, updates)
            self._note()
            if self.step % self.scenario.every == 0 or self.step == self.steps:
                yield {"round": self.step, **self.task.measure(self.params)}

    def _note(self) -> None:
        point = self.task.point(self.params)
        if point is not None:
            self.path.append(point)

    def findings(self) -> Sequence[Finding]:
        """There are no predictions: those are the analogies' business."""
        return ()

    def save(self, folder: Path) -> None:
        """Write the path as ``path.npz``, one point a step."""
        if self.path:
            points = torch.stack(self.path).numpy()
            write_with(folder / PATH, lambda place: _save(place, points))

    def state_dict(self) -> dict[str, Any]:
        """Give parameters, rule state, step and path."""
        path = torch.stack(self.path) if self.path else torch.zeros(0)
        kept = {"task": self.task.state_dict(), "path": path}
        return {"params": self.params, "state": self.state, "step": self.step, **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set them to where they were."""
        self.params, self.state, self.step = dict(state["params"]), state["state"], int(state["step"])
        self.task.load_state_dict(state["task"])
        self.path = list(state["path"].unbind()) if state["path"].numel() else []


def _save(place: Path, points: Any) -> None:
    with place.open("wb") as stream:
        np.savez_compressed(stream, path=points)


def draw(arms: Mapping[str, Drawn], folder: Path, question: str) -> None:
    """Draw the arms of each problem together: paths over contours in the plane, and the loss over steps."""
    from fedmomentum.experiments.pictures import draw_losses, draw_paths

    groups: dict[object, dict[str, Drawn]] = {}
    for name, arm in arms.items():
        assert isinstance(arm.scenario, OptimizeScenario)
        groups.setdefault(arm.scenario.problem, {})[name] = arm
    for number, group in enumerate(groups.values(), start=1):
        mark = "" if number == 1 else f"-{number}"
        first = next(iter(group.values())).scenario
        assert isinstance(first, OptimizeScenario)
        problem = first.problem
        if isinstance(problem, Training) or problem.dimension != 2:
            draw_losses({name: arm.rows for name, arm in group.items()}, folder, f"loss{mark}", question)
            continue
        function = Function(problem, first.seed)
        paths = {name: np.load(arm.folder / PATH)["path"] for name, arm in group.items()}
        draw_paths(function, paths, {n: arm.rows for n, arm in group.items()}, folder, f"paths{mark}", question)
        if first.animation != "none":
            from fedmomentum.experiments.films import film

            film(function, paths, folder / f"paths{mark}.{first.animation}", question)


KIND = Kind(OptimizeExperiment, draw)
