"""Factors on a learning rate as a function of the round: a client's, or the server's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from fedmomentum.scenario.block import Block, ByName, Count, Misfit, Probability, Whole


class ScheduleBlock(Block):
    """A factor on a learning rate, as a function of the round."""

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
