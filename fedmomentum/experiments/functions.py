"""Test functions of :mod:`fedmomentum.optim.problems` as something that a rule can be followed down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedmomentum.optim import problems
from fedmomentum.scenario.optimize import FunctionBlock, Himmelblau, Quadratic, RavineFunction, Rosenbrock
from fedmomentum.streams import stream
from fedmomentum.trees import Tree

MOST_DRAWN = 2
"""Coordinates of which a path is kept."""


class Function:
    """A function with noise on its gradient."""

    def __init__(self, block: FunctionBlock, seed: int) -> None:
        """Make the function that a block describes."""
        self.block, self.seed = block, seed
        self.problem: problems.Problem
        match block:
            case Quadratic():
                self.problem = problems.quadratic(block.curvatures)
                start = [1.0] * block.dimension
            case RavineFunction():
                self.problem = problems.ravine(block.condition, angle=block.angle)
                start = (problems.turn(block.angle) @ torch.tensor([-1.0, 0.35], dtype=torch.float64)).tolist()
            case Rosenbrock():
                self.problem = problems.Rosenbrock(block.coordinates, block.steepness)
                start = [-1.5 if k % 2 == 0 else 2.0 for k in range(block.coordinates)]
            case Himmelblau():
                self.problem = problems.Himmelblau()
                start = [0.0, -4.5]
            case _:
                raise TypeError(f"no such function: {block!r}")
        self._start = torch.tensor(list(block.start or start), dtype=torch.float64)

    def facts(self) -> Mapping[str, object]:
        """Say how many coordinates there are."""
        return {"coordinates": self.block.dimension}

    def start(self) -> Tree:
        """Give the start."""
        return {"x": self._start}

    def gradient(self, params: Tree, step: int) -> Tree:
        """Give the gradient, with noise of the seed and the step."""
        gradient = self.problem.gradient(params["x"])
        if self.block.noise:
            draw = stream(self.seed, "gradient noise", step=step).standard_normal(self.block.dimension)
            gradient = gradient + self.block.noise * torch.from_numpy(draw)
        return {"x": gradient}

    def measure(self, params: Tree) -> dict[str, float]:
        """Give the height above the minimum, the distance to the optimum and the length of the exact gradient."""
        x: Any = params["x"]
        distance = float((x - self.problem.optimum).norm())
        slope = float(self.problem.gradient(x).norm())
        return {"loss": float(self.problem.value(x)), "distance": distance, "gradient_norm": slope}

    def point(self, params: Tree) -> Tensor | None:
        """Give the place in the plane."""
        return params["x"] if self.block.dimension <= MOST_DRAWN else None

    def state_dict(self) -> dict[str, Any]:
        """There is nothing to keep: noise is a function of seed and step."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """There is nothing to set."""

    def height(self, x: Tensor) -> Tensor:
        """Give the height above the minimum at points ``[..., n]``."""
        return self.problem.value(x)

    @property
    def minima(self) -> list[tuple[float, float]]:
        """Where the minima are, in the plane."""
        if isinstance(self.block, Himmelblau):
            return [(3.0, 2.0), (-2.805118, 3.131312), (-3.779310, -3.283186), (3.584428, -1.848126)]
        x, y = self.problem.optimum.tolist()
        return [(x, y)]
