"""The ``strategy`` block: what the server does with the replies of a round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from fedmomentum.scenario.block import Block, ByName, Callable, Count, Decay, Misfit, NonNegative, Positive, Share
from fedmomentum.scenario.optimizer import Optimizer

Convention = Literal["paper", "keras", "flower"]
_CONVENTION = "paper: v starts at tau^2, no bias correction; keras: v starts at 0, corrected; flower: as Flower 1.41"


class StrategyBlock(Block):
    """The server half of an algorithm; D is the pseudo-gradient, old model minus mean of the replies."""

    quorum: Count | Share | None = Field(
        default=None,
        description="replies a round needs: a number, or a fraction of the cohort (1.0: all); null: at least one",
    )
    on_missed_quorum: Literal["keep", "stop"] = Field(
        default="keep", description="keep the old model and go on, or stop the run"
    )
    accumulation: Literal["wide", "native"] = Field(
        default="wide", description="sum replies in float64, or in the model's own type, bit for bit as Flower does"
    )


class FedAvg(StrategyBlock):
    """x <- weighted mean of the replies (arXiv:1602.05629)."""

    name: Literal["fedavg"]


class FedAvgM(StrategyBlock):
    """v <- beta v + D, x <- x - lr v: server momentum (arXiv:1909.06335)."""

    name: Literal["fedavgm"]
    server_learning_rate: Positive = Field(default=1.0, description="lr of the server")
    server_momentum: Decay = Field(default=0.9, description="beta, a round")
    form: Literal["heavy_ball", "ema", "nesterov"] = Field(
        default="heavy_ball", description="beta v + D; ema: beta v + (1 - beta) D; nesterov: the step is D + beta v"
    )
    dampening: Decay = Field(default=0.0, description="part of D that is left out of a heavy ball's velocity")

    def misfits(self) -> Iterator[Misfit]:
        """Refuse a dampening that the form does not have."""
        yield from super().misfits()
        if self.dampening and self.form != "heavy_ball":
            yield Misfit(("dampening",), f"only form 'heavy_ball' has dampening, not '{self.form}'; leave it out")


class FedAdagrad(StrategyBlock):
    """v <- v + D^2, x <- x - eta D / (sqrt v + tau) (arXiv:2003.00295)."""

    name: Literal["fedadagrad"]
    eta: Positive = Field(default=0.1, description="learning rate of the server")
    beta_1: Decay = Field(default=0.0, description="momentum of D, a round; the paper has none")
    tau: Positive = Field(default=1e-3, description="degree of adaptivity: small adapts more")
    convention: Convention = Field(default="paper", description=_CONVENTION)


class AdaptiveBlock(StrategyBlock):
    """m <- beta_1 m + (1 - beta_1) D, x <- x - eta m / (sqrt v + tau)."""

    eta: Positive = Field(default=0.1, description="learning rate of the server")
    beta_1: Decay = Field(default=0.9, description="momentum of D, a round")
    beta_2: Decay = Field(default=0.99, description="part of v that is kept, a round")
    tau: Positive = Field(default=1e-3, description="degree of adaptivity: small adapts more")
    convention: Convention = Field(default="paper", description=_CONVENTION)


class FedAdam(AdaptiveBlock):
    """Adam on the server: v <- beta_2 v + (1 - beta_2) D^2 (arXiv:2003.00295)."""

    name: Literal["fedadam"]


class FedYogi(AdaptiveBlock):
    """Yogi on the server: v <- v - (1 - beta_2) D^2 sign(v - D^2) (arXiv:2003.00295)."""

    name: Literal["fedyogi"]


class FedAdamW(AdaptiveBlock):
    """FedAdam with decoupled weight decay of the global model."""

    name: Literal["fedadamw"]
    weight_decay: NonNegative = Field(
        default=0.01, description="strength of the pull of the global weights to zero, a round"
    )


class FedOpt(StrategyBlock):
    """Any rule on the server: it descends D as a client's rule descends a gradient."""

    name: Literal["fedopt"]
    rule: Optimizer = Field(description="rule of the server's step; its lr is the server's learning rate")


class CustomStrategy(Block):
    """Any Flower strategy: called with the options, returns a ``flwr.serverapp.strategy.Strategy``."""

    name: Callable = Field(description="`package.module:callable`; the module is imported, so its code runs")
    options: dict[str, Any] = Field(default={}, description="keyword arguments of the callable")


Strategy: TypeAlias = Annotated[
    FedAvg | FedAvgM | FedAdagrad | FedAdam | FedYogi | FedAdamW | FedOpt | CustomStrategy, ByName()
]
