"""The ``client`` block: what a client does between receiving a model and sending one back."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from fedmomentum.scenario.block import Block, ByName, Count, NonNegative, OneOf, Positive
from fedmomentum.scenario.optimizer import ClientOptimizer
from fedmomentum.scenario.schedule import Constant, Schedule


class LocalSgd(Block):
    """The optimizer alone, on the client's own loss."""

    name: Literal["local_sgd"]


class Proximal(Block):
    """The optimizer on the client's loss with mu/2 |y - x|^2, under any server (arXiv:1812.06127)."""

    name: Literal["fedprox"]
    mu: NonNegative = Field(description="strength of the pull to the global model")


Method: TypeAlias = Annotated[LocalSgd | Proximal, ByName()]


class Client(Block):
    """Local training, the same for every client."""

    optimizer: ClientOptimizer = Field(description="rule of the local steps")
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
    method: Method | None = Field(default=None, description="client half; null: the one that belongs to the strategy")
    batch_norm: Literal["average", "local", "freeze"] = Field(
        default="average",
        description="batch norm is averaged; or stays with its client, as FedBN has it (arXiv:2102.07623); "
        "or keeps the global statistics as they are",
    )
    clip_norm: Positive | None = Field(default=None, description="largest norm of a gradient; null: no clipping")

    alternatives: ClassVar[tuple[OneOf, ...]] = (OneOf(("epochs", "steps"), default=("epochs", 1)),)
