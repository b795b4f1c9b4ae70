"""Strategies that sample: what comes out is no optimum but draws from exp(-f / T), or the mode of a posterior."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from fedmomentum.scenario.block import Count, Decay, Misfit, NonNegative, Positive, Probability, Share, Whole
from fedmomentum.scenario.client import Client
from fedmomentum.scenario.server import StrategyBlock

_TEMPERATURE = "T; null: 1 / n with the n training examples of all clients, which is their posterior"


class SamplerStrategy(StrategyBlock):
    """A strategy that samples exp(-f / T) of the mean loss f; the clients' weight decay is a Gaussian prior."""

    temperature: NonNegative | None = Field(default=None, description=_TEMPERATURE)
    client_half: ClassVar[bool] = True
    more_than_models: ClassVar[bool] = True
    descent: ClassVar[bool] = True
    """Whether clients have to step by plain gradient descent."""

    def misfits(self) -> Iterator[Misfit]:
        """Refuse a schedule of the server's step: its noise is made for the step as it is."""
        yield from super().misfits()
        if self.step_schedule is not None:
            yield Misfit(("step_schedule",), "a sampler's step has noise of its own size; set client.lr_schedule")

    def client_misfits(self, client: Client) -> Iterator[Misfit]:
        """Refuse a client rule that is not gradient descent: the noise is the algorithm's."""
        yield from super().client_misfits(client)
        name = getattr(self, "name", "")
        if self.descent and client.optimizer.name != "sgd":
            yield Misfit(("client", "optimizer", "name"), f"'{name}' adds the noise itself; take sgd")


class FALD(SamplerStrategy):
    """Averaged clients that take Langevin steps, with noise that is partly shared (arXiv:2112.05120)."""

    name: Literal["fald"]
    correlation: Probability = Field(default=0.0, description="rho, how much of their noise clients share")


class FSGLD(SamplerStrategy):
    """Langevin steps along gradients that Gaussian surrogates of all clients make unbiased (arXiv:2004.11231)."""

    name: Literal["fsgld"]
    conducive: bool = Field(default=True, description="false: no surrogates, and the variance between clients stays")


class DGLMC(SamplerStrategy):
    """Clients keep variables of their own, tied to the model by a spring: Gibbs sampling (arXiv:2106.06300)."""

    name: Literal["dglmc"]
    tolerance: Positive = Field(default=1e-2, description="rho, variance of the tie; small is exact and slow")


class QLSD(SamplerStrategy):
    """Langevin steps of the server along compressed gradients; star: QLSD* (arXiv:2106.00797)."""

    name: Literal["qlsd"]
    keep: Share = Field(default=0.1, description="share of the coordinates that clients send")
    star: bool = Field(default=False, description="compress differences to the gradients at a reference point")
    refresh: Whole = Field(default=0, description="for star: rounds between two reference points; 0: the first model")


class FedSGHMC(SamplerStrategy):
    """Server momentum with noise: SGHMC that knows of the noise of sampling clients (arXiv:1402.4102)."""

    name: Literal["fedsghmc"]
    friction: Share = Field(default=0.1, description="al = 1 - beta, part of the velocity that is lost a round")
    server_learning_rate: Positive = Field(default=1.0, description="s; the step size is s lr K")
    correction: Literal["none", "mean", "coordinate"] = Field(
        default="coordinate",
        description="what is measured of the noise of sampling clients: one more model, or a number",
    )
    memory: Decay = Field(default=0.9, description="part of that measurement that is kept, a round")
    descent: ClassVar[bool] = True


class FedPA(StrategyBlock):
    """Server momentum on posterior deltas S_i^-1 (x - mean_i) of the clients' own draws (arXiv:2010.05273)."""

    name: Literal["fedpa"]
    server_learning_rate: Positive = Field(default=1.0, description="lr of the server")
    server_momentum: Decay = Field(default=0.0, description="beta, a round")
    samples: Count = Field(default=5, description="draws of a client, a round")
    burn_in: Whole = Field(default=0, description="local steps before the first draw")
    burn_in_rounds: Whole = Field(default=0, description="rounds at the start with ordinary updates")
    shrinkage: NonNegative = Field(default=0.1, description="rho, how much of the draws' covariance is used; 0: none")
    averaged: bool = Field(
        default=True, description="a draw is the mean of the iterates since the last, or the last one"
    )
    client_half: ClassVar[bool] = True

    def client_misfits(self, client: Client) -> Iterator[Misfit]:
        """Refuse a state that clients keep (it holds the draws), and rounds too short for the draws."""
        yield from super().client_misfits(client)
        if client.state == "keep":
            yield Misfit(("client", "state"), "'fedpa' draws anew each round; leave it out")
        if client.steps is not None and client.steps < self.burn_in + self.samples:
            yield Misfit(
                ("client", "steps"),
                f"expected at least the {self.burn_in} steps of the burn-in and {self.samples} samples, "
                f"not {client.steps}",
            )
