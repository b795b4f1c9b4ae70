"""The ``participation`` block: who takes part in a round, and what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from fedmomentum.scenario.block import Block, ByName, Count, Misfit, NonNegative, OneOf, Positive, Share


class Cyclic(Block):
    """Clients come and go with the hours: each is there for a window of every period, which begins at its own time."""

    name: Literal["cyclic"]
    period: Count = Field(default=24, description="rounds of a day")
    window: Count = Field(default=8, description="rounds of a day in which a client is there")

    def misfits(self) -> Iterator[Misfit]:
        """Refuse a window longer than the day."""
        yield from super().misfits()
        if self.window > self.period:
            yield Misfit(("window",), f"expected at most the period of {self.period} rounds, not {self.window}")


Availability: TypeAlias = Annotated[Cyclic, ByName()]


class Trace(Block):
    """Who is missing when, from a file."""

    trace: str = Field(min_length=1, description="CSV file with the columns round and client")


class Stragglers(Block):
    """Clients have speeds, and a round has a deadline."""

    speed: Literal["lognormal"] = Field(
        default="lognormal", description="distribution of the relative speeds over the clients"
    )
    sigma: NonNegative = Field(default=0.5, description="standard deviation of the logarithm of speed")
    deadline: Positive | None = Field(
        default=2.0, description="in units of the median client's round time; null: wait for all"
    )
    late: Literal["drop", "partial"] = Field(
        default="drop", description="what comes late: lost, or as many steps as fit in time"
    )


class ParticipationBlock(Block):
    """Who is chosen, and who of them replies."""

    availability: Availability | None = Field(
        default=None, description="who can be chosen when; null: everybody, always"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] | Trace = Field(
        default=0.0, description="probability that a chosen client never replies, or {trace: file.csv}"
    )
    stragglers: Stragglers | None = Field(
        default=None, description="slow clients and a deadline; null: all are in time"
    )


_BY_FRACTION = OneOf(("fraction", "count"), default=("fraction", 0.1))


class Uniform(ParticipationBlock):
    """Equally likely clients, without replacement; a fixed number a round."""

    name: Literal["uniform"]
    fraction: Share | None = Field(
        default=None, description="of the clients, at least one; 0.1 where count is not given"
    )
    count: Count | None = Field(default=None, description="clients a round; instead of fraction")

    alternatives: ClassVar[tuple[OneOf, ...]] = (_BY_FRACTION,)


class Bernoulli(ParticipationBlock):
    """Each client takes part with a probability of its own coin; the number differs from round to round."""

    name: Literal["bernoulli"]
    probability: Share = Field(default=0.1, description="that a client takes part in a round")


class Weighted(ParticipationBlock):
    """Clients in proportion to their number of examples, without replacement; a fixed number a round."""

    name: Literal["weighted"]
    fraction: Share | None = Field(
        default=None, description="of the clients, at least one; 0.1 where count is not given"
    )
    count: Count | None = Field(default=None, description="clients a round; instead of fraction")

    alternatives: ClassVar[tuple[OneOf, ...]] = (_BY_FRACTION,)


Participation: TypeAlias = Annotated[Uniform | Bernoulli | Weighted, ByName()]
