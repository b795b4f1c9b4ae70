"""The ``client`` block: what a client does between receiving a model and sending one back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from fedmomentum.scenario.block import Block, ByName, Count, Decay, Misfit, NonNegative, OneOf, Positive
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

SPRINGS = ("sgd", "heavy_ball", "ema", "nesterov")
"""Rules that move as a spring does on a quadratic: their stability and damping have a closed form."""


Probe: TypeAlias = Literal["curvature", "damping", "stability", "noise", "batch_norm", "irreversibility", "drift"]


class Measure(Block):
    """What the measurements of clients may cost."""

    lanczos_steps: Count = Field(
        default=10, description="Hessian-vector products a client, each about two gradients of its sample"
    )
    examples: Count = Field(default=256, description="examples of a client that curvature is measured on, at most")
    path_steps: Count = Field(default=64, description="local steps that are followed, the last ones of the round")


class Adapt(Block):
    """Bounds of what clients set by their own curvature: `lr: safe` and `momentum: critical`."""

    margin: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="`lr: safe` is this part of the largest stable learning rate"
    )
    max_lr: Positive = Field(
        default=1.0, description="largest safe learning rate, and the one where no positive curvature is found"
    )
    max_momentum: Decay = Field(default=0.95, description="largest critical momentum, likewise")
    every: Count = Field(
        default=1, description="rounds until a client's curvature is measured again; it goes by the last one till then"
    )


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
    probes: Annotated[tuple[Probe, ...], Field(strict=False)] = Field(
        default=(), description="measurements beside the training, as columns of the metrics (docs/probes.md)"
    )
    probe_every: Count = Field(default=1, description="rounds from one measurement to the next")
    measure: Measure = Field(default=Measure(), description="what measurements may cost")
    adapt: Adapt = Field(default=Adapt(), description="bounds of `lr: safe` and `momentum: critical`")

    alternatives: ClassVar[tuple[OneOf, ...]] = (OneOf(("epochs", "steps"), default=("epochs", 1)),)

    @property
    def adaptive(self) -> tuple[str, ...]:
        """The words that make clients set hyperparameters by their own curvature, as they stand in the scenario."""
        words = {"lr": "safe", "momentum": "critical"}
        return tuple(f"{key}: {word}" for key, word in words.items() if getattr(self.optimizer, key, None) == word)

    def misfits(self) -> Iterator[Misfit]:
        """Refuse probes of what the rule is not, and probes named twice."""
        yield from super().misfits()
        for index, name in enumerate(self.probes):
            if name in self.probes[:index]:
                yield Misfit(("probes",), f"'{name}' is there twice")
            elif name in ("damping", "stability") and self.optimizer.name not in SPRINGS:
                yield Misfit(
                    ("probes",),
                    f"'{name}' reads the optimizer as a spring, and '{self.optimizer.name}' is none; it goes with "
                    f"{', '.join(SPRINGS)}",
                )
