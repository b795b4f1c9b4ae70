"""``kind: optimize``: rules on a problem, on this machine: a test function, or a real model and data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from fedmomentum.scenario.block import Block, ByName, Count, Misfit, NonNegative, Positive
from fedmomentum.scenario.data import Data
from fedmomentum.scenario.model import Model, model_misfits
from fedmomentum.scenario.optimizer import Optimizer
from fedmomentum.scenario.running import Checkpoint
from fedmomentum.scenario.scenario import Scenario

Point = Annotated[tuple[float, ...], Field(strict=False, min_length=1)]


class FunctionBlock(Block):
    """A function whose minimum is known."""

    start: Point | None = Field(default=None, description="where rules begin; null: a place that suits the function")
    noise: NonNegative = Field(default=0.0, description="standard deviation of what is added to each coordinate of g")

    @property
    def dimension(self) -> int:
        """How many coordinates a point has."""
        return 2

    def misfits(self) -> Iterator[Misfit]:
        """Refuse a start with another number of coordinates."""
        yield from super().misfits()
        if self.start is not None and len(self.start) != self.dimension:
            yield Misfit(("start",), f"expected {self.dimension} coordinates, not {len(self.start)}")


class Quadratic(FunctionBlock):
    """A bowl with given curvatures along the axes."""

    name: Literal["quadratic"]
    curvatures: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)] = Field(
        description="one a coordinate"
    )

    @property
    def dimension(self) -> int:
        """One coordinate a curvature."""
        return len(self.curvatures)


class RavineFunction(FunctionBlock):
    """A long narrow bowl in the plane, along the axes or turned."""

    name: Literal["ravine"]
    condition: Annotated[float, Field(ge=1, le=1e12)] = Field(default=30.0, description="its condition number")
    angle: float = Field(default=0.0, description="by which it is turned, rad")


class Rosenbrock(FunctionBlock):
    """A curved valley with its minimum at (1, ..., 1) (doi:10.1093/comjnl/3.3.175)."""

    name: Literal["rosenbrock"]
    coordinates: Annotated[int, Field(ge=2, le=10_000)] = Field(default=2, description="of a point")
    steepness: Positive = Field(default=100.0, description="of the valley's walls")

    @property
    def dimension(self) -> int:
        """As it is set."""
        return self.coordinates


class Himmelblau(FunctionBlock):
    """Four minima of one depth, with saddles between them: which one is found depends on the rule."""

    name: Literal["himmelblau"]


class Training(Block):
    """A model on a data set, all of it on this machine; who would hold which part (`partition`) does not matter."""

    name: Literal["training"]
    data: Data = Field(description="the examples")
    model: Model = Field(description="the network")
    batch_size: Count | Literal["all"] = Field(default=64, description="examples of a step")

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, block: Any) -> Any:
        """Let `data` do without a partition: one client would hold all of it."""
        data = block.get("data") if isinstance(block, Mapping) else None
        if not isinstance(data, Mapping) or "partition" in data:
            return block
        return {**block, "data": {**data, "partition": {"name": "iid", "clients": 1}}}

    def misfits(self) -> Iterator[Misfit]:
        """Refuse a model that cannot read the data."""
        yield from super().misfits()
        for misfit in model_misfits(self.model, self.data):
            yield Misfit(("model", *misfit.path), misfit.message)


Problem: TypeAlias = Annotated[Quadratic | RavineFunction | Rosenbrock | Himmelblau | Training, ByName()]


class OptimizeScenario(Scenario):
    """An optimizer on a problem: arms are rules (or problems) that are compared, in one picture."""

    kind: Literal["optimize"] = Field(description="what is run")
    steps: Annotated[int, Field(ge=1, le=10_000_000)] = Field(description="of the optimizer")
    problem: Problem = Field(description="what is minimised")
    optimizer: Optimizer = Field(description="the rule")
    clip_norm: Positive | None = Field(default=None, description="largest norm of a gradient; a longer one is cut")
    every: Count = Field(default=10, description="steps between two rows of metrics")
    animation: Literal["none", "gif", "mp4"] = Field(
        default="none", description="also draw the paths moving (in the plane); mp4 needs ffmpeg"
    )
    checkpoint: Checkpoint = Field(default=Checkpoint(), description="how a run is kept so that it can go on")

    def misfits(self) -> Iterator[Misfit]:
        """Refuse a film of what has no picture in the plane."""
        yield from super().misfits()
        if self.animation != "none" and getattr(self.problem, "dimension", None) != 2:
            yield Misfit(("animation",), "paths move in the plane: take a problem of two coordinates, or leave it out")

    def extent(self) -> dict[str, int]:
        """Give the steps."""
        return {"steps": self.steps}
