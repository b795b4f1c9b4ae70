"""Strategies that bring a client half along, or a server's step that no plain rule is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from fedmomentum.scenario.block import Decay, Misfit, NonNegative, Positive, Probability, Share
from fedmomentum.scenario.client import Client
from fedmomentum.scenario.optimizer import SAMPLERS
from fedmomentum.scenario.server import StrategyBlock

Weighting = Literal["examples", "uniform"]
_WEIGHTING = "count every client alike, as the paper does, or weigh replies by their clients' examples"
_LINEAR = ("sgd", "heavy_ball", "nesterov", "ema")
_VELOCITY = ("heavy_ball", "nesterov", "ema")


def one_rate(client: Client, who: str) -> Iterator[Misfit]:
    """Refuse learning rates and momenta of the clients' own, where one number has to stand for all of them."""
    for setting in client.adaptive:
        key, _, word = setting.partition(": ")
        yield Misfit(
            ("client", "optimizer", key),
            f"{who} needs one number for all clients, and {word} gives each its own",
        )


class SlowMo(StrategyBlock):
    """u <- beta u + D / gamma, x <- x - alpha gamma u, in units of the clients' learning rate (arXiv:1910.00643)."""

    name: Literal["slowmo"]
    slow_learning_rate: Positive = Field(default=1.0, description="alpha")
    slow_momentum: Decay = Field(default=0.7, description="beta, a round")
    more_than_the_mean: ClassVar[bool] = True


class FedGM(StrategyBlock):
    """d <- beta d + (1 - beta) D, x <- x - lr [(1 - nu) D + nu d]: general momentum (arXiv:2312.12670)."""

    name: Literal["fedgm"]
    server_learning_rate: Positive = Field(default=1.0, description="lr of the server")
    server_momentum: Decay = Field(default=0.9, description="beta, a round")
    nu: Probability = Field(default=0.7, description="weight of d in the step; 0: FedAvg, 1: ema, beta: Nesterov")


class FedExP(StrategyBlock):
    """x <- x - eta D with eta from how much the clients' updates cancel (arXiv:2301.09604)."""

    name: Literal["fedexp"]
    epsilon: Positive = Field(default=1e-3, description="keeps eta finite where the updates cancel altogether")
    client_half: ClassVar[bool] = True
    more_than_models: ClassVar[bool] = True


class FedProx(StrategyBlock):
    """FedAvg of clients that descend f_i(y) + mu/2 |y - x|^2 (arXiv:1812.06127)."""

    name: Literal["fedprox"]
    proximal_mu: NonNegative = Field(default=0.01, description="mu; 0: FedAvg")
    client_half: ClassVar[bool] = True


class LinearRuleBlock(StrategyBlock):
    """A strategy that counts the gradients in a client's update."""

    def client_misfits(self, client: Client) -> Iterator[Misfit]:
        """Refuse a client rule whose steps are no sum of gradients."""
        yield from super().client_misfits(client)
        if client.optimizer.name not in _LINEAR:
            yield Misfit(
                ("client", "optimizer", "name"), f"{self._wants} counts gradients; take one of {', '.join(_LINEAR)}"
            )
        yield from one_rate(client, self._wants)

    @property
    def _wants(self) -> str:
        return f"'{getattr(self, 'name', '')}'"


class Scaffold(LinearRuleBlock):
    """Clients descend g(y) - c_i + c with control variates that they and the server keep (arXiv:1910.06378)."""

    name: Literal["scaffold"]
    server_learning_rate: Positive = Field(default=1.0, description="lr of the server")
    control: Literal["steps", "gradient"] = Field(
        default="steps", description="renew c_i from the local steps (option II), or by a pass over the data (option I)"
    )
    weighting: Weighting = Field(default="uniform", description=_WEIGHTING)
    client_half: ClassVar[bool] = True
    more_than_models: ClassVar[bool] = True

    def client_misfits(self, client: Client) -> Iterator[Misfit]:
        """Refuse a client rule whose steps are no sum of gradients, where they are counted."""
        yield from super().client_misfits(client) if self.control == "steps" else ()

    @property
    def _wants(self) -> str:
        return "'scaffold' with control: steps"


class FedDyn(StrategyBlock):
    """Clients descend f_i(y) - <g_i, y> + alpha/2 |y - x|^2 with a gradient g_i that they keep (arXiv:2111.04263)."""

    name: Literal["feddyn"]
    alpha: Positive = Field(default=0.1, description="strength of the regulariser, in units of curvature")
    weighting: Weighting = Field(default="uniform", description=_WEIGHTING)
    client_half: ClassVar[bool] = True
    more_than_the_mean: ClassVar[bool] = True


class FedCM(StrategyBlock):
    """Clients descend alpha g(y) + (1 - alpha) times the last round's mean direction (arXiv:2106.10874)."""

    name: Literal["fedcm"]
    alpha: Share = Field(default=0.1, description="weight of a client's own gradient; 1: FedAvg")
    server_learning_rate: Positive = Field(default=1.0, description="times D; the paper's is this times lr K")
    client_half: ClassVar[bool] = True
    more_than_the_mean: ClassVar[bool] = True


class FedADC(StrategyBlock):
    """Server momentum that clients take in shares: g(y) + beta_l m / K (arXiv:2012.09102)."""

    name: Literal["fedadc"]
    server_learning_rate: Positive = Field(default=1.0, description="alpha")
    server_momentum: Decay = Field(default=0.8, description="beta_g, a round")
    local_momentum: Decay | None = Field(default=None, description="beta_l; null: beta_g")
    client_half: ClassVar[bool] = True
    more_than_the_mean: ClassVar[bool] = True


class DOMO(StrategyBlock):
    """Clients with momentum of their own also walk along the server's (arXiv:2102.03970)."""

    name: Literal["domo"]
    server_learning_rate: Positive = Field(default=1.0, description="alpha")
    server_momentum: Decay = Field(default=0.9, description="beta, a round")
    fusion: NonNegative = Field(default=0.9, description="how far clients walk along the server's momentum")
    spread: bool = Field(default=False, description="with every local step (DOMO-S), not all before the first")
    client_half: ClassVar[bool] = True
    more_than_the_mean: ClassVar[bool] = True

    def client_misfits(self, client: Client) -> Iterator[Misfit]:
        """Refuse learning rates of the clients' own."""
        yield from super().client_misfits(client)
        yield from one_rate(client, "'domo'")


class MimeBlock(StrategyBlock):
    """Clients step by the client's optimizer, with a state that the server alone moves."""

    server_learning_rate: Positive = Field(default=1.0, description="times D")
    weighting: Weighting = Field(default="uniform", description=_WEIGHTING)
    client_half: ClassVar[bool] = True
    more_than_models: ClassVar[bool] = True

    def client_misfits(self, client: Client) -> Iterator[Misfit]:
        """Refuse a state that clients keep: it is the server's; and noise, which every client would have alike."""
        yield from super().client_misfits(client)
        if client.optimizer.name in SAMPLERS:
            name = getattr(self, "name", "")
            yield Misfit(("client", "optimizer", "name"), f"'{name}' has one state for all clients, so no sampler")
        if client.state == "keep":
            name = getattr(self, "name", "")
            yield Misfit(("client", "state"), f"with '{name}' the state of the optimizer is the server's; leave it out")
        yield from one_rate(client, f"'{getattr(self, 'name', '')}'")


class MimeLite(MimeBlock):
    """Local steps of the client's optimizer, whose state the server alone moves (arXiv:2008.03606)."""

    name: Literal["mimelite"]


class Mime(MimeBlock):
    """MimeLite on gradients freed of the client's bias; two exchanges a round (arXiv:2008.03606)."""

    name: Literal["mime"]


class FedNova(LinearRuleBlock):
    """Mean of updates divided by the number of gradients in them, times its mean (arXiv:2007.07481)."""

    name: Literal["fednova"]
    server_learning_rate: Positive = Field(default=1.0, description="lr of the server")
    client_half: ClassVar[bool] = True
    more_than_models: ClassVar[bool] = True


class FedNAG(StrategyBlock):
    """Weights and velocities are both averaged; clients go on from the mean velocity (arXiv:2009.08716)."""

    name: Literal["fednag"]
    client_half: ClassVar[bool] = True
    more_than_models: ClassVar[bool] = True

    def client_misfits(self, client: Client) -> Iterator[Misfit]:
        """Refuse a client rule without a velocity."""
        yield from super().client_misfits(client)
        if client.optimizer.name not in _VELOCITY:
            yield Misfit(
                ("client", "optimizer", "name"),
                f"'fednag' averages velocities; take one of {', '.join(_VELOCITY)}",
            )


class FedBN(StrategyBlock):
    """FedAvg of all but batch norm, which stays with each client (arXiv:2102.07623)."""

    name: Literal["fedbn"]

    def client_misfits(self, client: Client) -> Iterator[Misfit]:
        """Refuse another policy for batch norm."""
        yield from super().client_misfits(client)
        if client.batch_norm == "freeze":
            yield Misfit(("client", "batch_norm"), "'fedbn' leaves batch norm with the client; leave it out")
