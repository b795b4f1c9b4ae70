"""The ``client`` block: what a client does between receiving a model and sending one back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from fedmomentum.scenario.block import Block, ByName, Count, Misfit, OneOf, Positive, Probability, Whole
from fedmomentum.scenario.optimizer import Optimizer


class ScheduleBlock(Block):
    """A factor on the client's learning rate, as a function of the round."""

    warmup: Whole = Field(default=0, description="rounds over which the factor first rises from 0 in equal steps")


class Constant(ScheduleBlock):
    """The same learning rate in every round."""

    name: Literal["constant"]


class Step(ScheduleBlock):
    """The learning rate is multiplied by ``factor`` every ``every`` rounds."""

    name: Literal["step"]
    every: Count = Field(description="rounds between two changes")
    factor: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1, description="what the learning rate is multiplied by"
    )


class Cosine(ScheduleBlock):
    """Half a cosine from the learning rate down to ``floor`` times it."""

    name: Literal["cosine"]
    rounds: Count | None = Field(default=None, description="rounds until the floor; null: those of the scenario")
    floor: Probability = Field(default=0.0, description="last factor on the learning rate")

    def misfits(self) -> Iterator[Misfit]:
        """Refuse a warm-up that leaves nothing for the cosine."""
        yield from super().misfits()
        if self.rounds is not None and self.warmup >= self.rounds:
            yield Misfit(
                ("warmup",), f"expected fewer rounds than the {self.rounds} of the schedule, not {self.warmup}"
            )


Schedule: TypeAlias = Annotated[Constant | Step | Cosine, ByName()]


class Client(Block):
    """Local training, the same for every client."""

    optimizer: Optimizer = Field(description="rule of the local steps")
    epochs: Count | None = Field(
        default=None, description="passes over the client's data a round; 1 where steps are not given"
    )
    steps: Count | None = Field(
        default=None, description="minibatch steps a round, whatever the client's size; instead of epochs"
    )
    batch_size: Count | Literal["all"] = Field(
        default=20, description="examples a step; `all`: the client's whole data"
    )
    lr_schedule: Schedule = Field(default=Constant(name="constant"), description="learning rate over the rounds")
    state: Literal["reset", "keep"] = Field(
        default="reset",
        description="local momentum between a client's rounds: starts anew, or lives on with the client",
    )
    clip_norm: Positive | None = Field(default=None, description="largest norm of a gradient; null: no clipping")

    alternatives: ClassVar[tuple[OneOf, ...]] = (OneOf(("epochs", "steps"), default=("epochs", 1)),)
