"""The ``strategy`` block: what the server does with the replies of a round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from fedmomentum.scenario.block import (
    Block,
    ByName,
    Callable,
    Count,
    Decay,
    Misfit,
    NonNegative,
    Positive,
    Share,
    Whole,
)
from fedmomentum.scenario.client import Client
from fedmomentum.scenario.optimizer import Optimizer
from fedmomentum.scenario.schedule import Schedule

Convention = Literal["paper", "keras", "flower"]
_CONVENTION = "paper: v starts at tau^2, no bias correction; keras: v starts at 0, corrected; flower: as Flower 1.41"


class Median(Block):
    """Coordinate-wise median (arXiv:1803.01498)."""

    name: Literal["median"]


class TrimmedMean(Block):
    """Coordinate-wise mean without the largest and smallest values (arXiv:1803.01498)."""

    name: Literal["trimmed_mean"]
    fraction: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.1, description="part of the replies that is left out at either end"
    )


class Krum(Block):
    """The reply with the closest neighbours, or the mean of the best ones (arXiv:1703.02757)."""

    name: Literal["krum"]
    byzantine: Whole = Field(description="bad replies to be safe from; it takes 2 byzantine + 3 replies a round")
    keep: Count = Field(default=1, description="best replies that are averaged")


class GeometricMedian(Block):
    """The point with the smallest weighted sum of distances to the replies (arXiv:1912.13445)."""

    name: Literal["geometric_median"]
    tolerance: NonNegative = Field(
        default=1e-6, description="stop where a step is a smaller part of the mean distance than this"
    )
    most_iterations: Count = Field(default=100, description="iterations at the most")
    smoothing: Positive = Field(default=1e-6, description="smallest distance, as a part of the mean one")


Aggregator: TypeAlias = Annotated[Median | TrimmedMean | Krum | GeometricMedian, ByName()]


class Privacy(Block):
    """Clipped updates, Gaussian noise on their sum, epsilon in the metrics (arXiv:1710.06963, arXiv:2009.10031)."""

    clip: Positive = Field(description="S, largest length of a client's update")
    noise_multiplier: Positive = Field(description="z, standard deviation of the noise in units of S")
    delta: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=1e-5, description="probability with which the guarantee may fail; well below 1 / clients"
    )


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
    weighting: Literal["examples", "uniform"] = Field(
        default="examples", description="weigh replies by their clients' examples, or count every client alike"
    )
    aggregator: Aggregator | None = Field(
        default=None, description="combines replies before the server's step; null: the weighted mean"
    )
    clip_update: Positive | None = Field(
        default=None, description="largest length of a client's update; null: no clipping (arXiv:1710.06963)"
    )
    max_update_norm: Positive | None = Field(
        default=None, description="largest length of a client's update; a longer one is refused; null: any"
    )
    step_schedule: Schedule | None = Field(
        default=None, description="factor on the server's step over the rounds; null: 1"
    )
    privacy: Privacy | None = Field(
        default=None,
        description="differential privacy of clients, under participation `bernoulli`; every client counts alike; "
        "needs the extra `privacy`; null: none",
    )

    client_half: ClassVar[bool] = False
    """Whether the strategy brings a client half of its own."""
    more_than_models: ClassVar[bool] = False
    """Whether it averages more than models, which a robust aggregator does not look at."""
    more_than_the_mean: ClassVar[bool] = False
    """Whether its step needs more of a round than the mean of the models, which is all that privacy covers."""

    def misfits(self) -> Iterator[Misfit]:
        """Refuse a robust aggregator beside plain means, and privacy beside what it does not cover."""
        yield from super().misfits()
        if self.privacy is not None:
            name = getattr(self, "name", "")
            if self.more_than_models or self.more_than_the_mean:
                yield Misfit(("privacy",), f"'{name}' goes by more than the mean of the models; leave it out")
            for key in ("aggregator", "clip_update", "quorum"):
                if getattr(self, key) is not None:
                    yield Misfit((key,), "privacy clips and sums every reply itself; leave one of the two out")
        for key in ("aggregator", "clip_update"):
            if self.more_than_models and getattr(self, key) is not None:
                name = getattr(self, "name", "")
                yield Misfit((key,), f"'{name}' averages more than models, which stays a plain mean; leave it out")

    def client_misfits(self, client: Client) -> Iterator[Misfit]:
        """Refuse local training that does not suit the strategy; paths are those of the scenario."""
        if self.client_half and client.method is not None:
            name = getattr(self, "name", "")
            yield Misfit(("client", "method"), f"'{name}' brings a client half of its own; leave it out")


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
    """Any Flower strategy, such as flwr.serverapp.strategy:FedMedian, over the cohorts of ``participation``."""

    name: Callable = Field(description="`package.module:callable`; the module is imported, so its code runs")
    options: dict[str, Any] = Field(
        default={}, description="keyword arguments of the callable, which returns a `flwr.serverapp.strategy.Strategy`"
    )
