"""Stochastic gradient Hamiltonian Monte Carlo on the server: server momentum with the noise that makes it a sampler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from torch import Tensor

from fedmomentum.protocol import DRIFT, SQUARES
from fedmomentum.strategies.carried import Carrying
from fedmomentum.strategies.sampling import server_noise
from fedmomentum.trees import Tree

_VELOCITY, _VARIANCE = "velocity", "variance"


@dataclass(eq=False, repr=False)
class FedSGHMC(Carrying):
    """``v <- (1 - al) v - s D + N(0, 2 (al T - bh) eta)``, ``x <- x + v``: FedAvgM with ``beta = 1 - al``, and noise.

    ``D = x - mean(y_i)`` of clients that take K steps of gradient descent is ``lr K`` times their mean gradient, so the
    step size of the sampler is ``eta = s lr K``. Where S of N clients take part, that gradient has noise of its own, of
    variance ``V = Var_i(g_i) / S (N - S) / (N - 1)``: ``bh = eta V / 2`` of heat, which the injected noise leaves out.
    V is measured on the replies, and averaged over rounds.

    The target is ``exp(-f / T)`` with the weighted mean ``f`` of the clients' losses; ``T = 1 / n`` is the posterior of
    n examples. ``K = 1`` is exact up to the step size; more local steps have the drift of federated averaging.

    Args:
        temperature: ``T``, at least 0; 0 is FedAvgM.
        friction: ``al``, in (0, 1].
        server_learning_rate: ``s``, above 0.
        correction: measure V for each ``coordinate`` (clients send one more model), as one ``mean`` over all of them (8
            bytes), or ``none``: the noise of sampling clients then heats the chain.
        memory: share of V that is kept from round to round, in [0, 1).

    Attributes:
        excess_heat: mean over coordinates of how far the clients' noise alone is hotter than ``al T``, relative to it;
            0 is exact. Where it is not, no noise is injected and the chain is that much too hot: lower the step size,
            raise the friction, or let more clients take part.
        kinetic_temperature: ``|v|^2 / (P eta)``, which is ``T`` in equilibrium.

    Raises:
        ValueError: an argument is out of range.

    Reference: arXiv:1402.4102, on a server.
    """

    _: KW_ONLY
    temperature: float = 1.0
    friction: float = 0.1
    server_learning_rate: float = 1.0
    correction: Literal["none", "mean", "coordinate"] = "coordinate"
    memory: float = 0.9

    client_method: ClassVar[str] = "fedsghmc"
    counts_replies: ClassVar[bool] = True
    needs_metrics: ClassVar[tuple[str, ...]] = ("lr", "steps")

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if not self.temperature >= 0 or not 0 < self.friction <= 1:
            raise ValueError(
                f"need temperature >= 0 and friction in (0, 1], not {self.temperature} and {self.friction}"
            )
        if not self.server_learning_rate > 0 or not 0 <= self.memory < 1:
            raise ValueError(
                f"need server_learning_rate > 0 and memory in [0, 1), not {self.server_learning_rate}, {self.memory}"
            )
        if self.correction not in ("none", "mean", "coordinate"):
            raise ValueError(f"correction must be none, mean or coordinate, not '{self.correction}'")
        self.excess_heat = self.kinetic_temperature = 0.0

    def client_options(self) -> dict[str, Any]:
        """Give what clients send for the correction."""
        return {"correction": self.correction}

    def extra_in_replies(self, params: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """Expect the squares of the clients' updates, or their sum."""
        if self.correction == "mean":
            return {DRIFT: {"squared": torch.zeros((), dtype=torch.float64)}}
        return {SQUARES: params} if self.correction == "coordinate" else {}

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Take one step of the sampler."""
        length = self.client_mean("lr", "steps")
        eta, wanted = self.server_learning_rate * length, self.friction * self.temperature
        update = {name: x.double() - mean[name].double() for name, x in old.items()}
        variance = self._variance(update, extras, length)
        own = {name: 0.5 * eta * v for name, v in variance.items()}
        velocity = self.carried(_VELOCITY, {name: x.double() for name, x in old.items()})
        noise = server_noise(update, seed=self.seed, server_round=self.round)
        velocity = {
            name: (1.0 - self.friction) * v
            - self.server_learning_rate * update[name]
            + (2.0 * eta * (wanted - own[name]).clamp(min=0.0)).sqrt() * noise[name]
            for name, v in velocity.items()
        }
        self.carry(_VELOCITY, velocity)
        size = sum(v.numel() for v in velocity.values())
        excess = sum(float((h - wanted).clamp(min=0.0).sum()) for h in own.values())
        self.excess_heat = excess / (wanted * size) if wanted else 0.0
        self.kinetic_temperature = sum(float(v.square().sum()) for v in velocity.values()) / (size * eta)
        return {name: x + velocity[name].to(x.dtype) for name, x in old.items()}

    def _variance(self, update: Tree, extras: Mapping[str, Tree], length: float) -> Tree:
        """Give V of each coordinate of the mean gradient, with what this round's replies say of it taken in."""
        sample, everyone = self.accepted, self.population
        kept = self.carried(_VARIANCE, update)
        if self.correction == "none" or sample >= everyone:
            return {name: torch.zeros_like(v) for name, v in kept.items()}
        if sample < 2:  # one reply says nothing of how clients differ
            return kept
        if self.correction == "mean":
            size = sum(d.numel() for d in update.values())
            squared = float(extras[DRIFT]["squared"]) - sum(float(d.square().sum()) for d in update.values())
            spread = {name: torch.full_like(d, squared / size) for name, d in update.items()}
        else:
            spread = {name: extras[SQUARES][name].double() - d.square() for name, d in update.items()}
        # The mean square around the mean of S replies is (S - 1) / S of the population's; a mean over S of N without
        # replacement has the variance below.
        share = (1.0 - sample / everyone) / (sample - 1) / length**2
        found = {name: (share * s).clamp(min=0.0) for name, s in spread.items()}
        if _VARIANCE in self._carried:
            found = {name: self.memory * kept[name] + (1.0 - self.memory) * v for name, v in found.items()}
        self.carry(_VARIANCE, found)
        return found

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Admit the replies and take the server's step; see :class:`FedAvg`."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        if metrics is not None and arrays is not None:
            metrics["excess_heat"] = self.excess_heat
            metrics["kinetic_temperature"] = self.kinetic_temperature
        return arrays, metrics
