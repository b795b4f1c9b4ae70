"""From a scenario on quadratic losses to its posterior in closed form, and to the law of its algorithm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmomentum.clients.network import Network
from fedmomentum.data import FederatedData
from fedmomentum.errors import UserError
from fedmomentum.gaussian_posterior import GaussianPosterior
from fedmomentum.samplers import federated_laws as laws
from fedmomentum.samplers.linear_chain import Array, LinearChain
from fedmomentum.samplers.quadratics import Quadratics
from fedmomentum.samplers.sparse import kept_count
from fedmomentum.scenario.model import Linear

if TYPE_CHECKING:
    from fedmomentum.scenario import FederatedScenario

MOST_WEIGHTS = 200
"""Weights up to which covariances are worth their place: they are dense."""


def build_gaussian_posterior(
    scenario: FederatedScenario, data: FederatedData, network: Network
) -> GaussianPosterior | None:
    """Give what judges draws of a linear model, where the scenario asks for it.

    Args:
        scenario: with an ``evaluate.posterior`` block.
        data: whose answers are numbers.
        network: the linear model.

    Raises:
        UserError: the posterior has no closed form, or too many weights.
    """
    settings = scenario.evaluate.posterior
    if settings is None:
        return None
    names, model = tuple(network.params), scenario.model
    if not isinstance(model, Linear) or data.classes != 1 or model.init != "zero":
        raise UserError(
            "evaluate.posterior: of numbers it is known for model 'linear', init 'zero' and one answer; leave it out"
        )
    if (size := sum(p.numel() for p in network.params.values())) > MOST_WEIGHTS:
        raise UserError(f"evaluate.posterior: {size} weights are more than the {MOST_WEIGHTS} whose covariance is kept")
    optimizer, strategy = scenario.client.optimizer, scenario.strategy
    of = quadratics(data, bias=len(names) > 1, prior=float(getattr(optimizer, "weight_decay", 0.0)))
    shares = of.shares(uniform=getattr(strategy, "weighting", "examples") == "uniform")
    temperature = getattr(strategy, "temperature", None)
    heat = float(1.0 / of.sizes.sum() if temperature is None else temperature)
    if heat <= 0:
        raise UserError("evaluate.posterior: at temperature 0 there is no posterior; leave it out")
    try:
        target = of.posterior(shares, heat)
    except ValueError as error:
        raise UserError(f"evaluate.posterior: {error}; give them more, or set client.optimizer.weight_decay") from None
    try:
        law = law_of(scenario, of, shares, heat)
    except ValueError as error:
        law = str(error)
    return GaussianPosterior(
        target, names, settings.burn_in, settings.every, law, sampling=hasattr(strategy, "temperature")
    )


def quadratics(data: FederatedData, *, bias: bool = False, prior: float = 0.0) -> Quadratics:
    """Give the losses of all clients of a linear model with one answer."""
    parts: list[tuple[Array, Array]] = []
    for client in range(data.clients):
        x, y = data.train_arrays(client)
        if len(y) == 0:
            continue  # one that holds nothing never replies
        flat = x.reshape(len(x), -1).astype(np.float64)
        parts.append((np.hstack([flat, np.ones((len(flat), 1))]) if bias else flat, y[:, 0].astype(np.float64)))
    return Quadratics.of(parts, prior=prior)


def law_of(scenario: FederatedScenario, of: Quadratics, shares: Array, temperature: float) -> LinearChain | str:
    """Give the law of a scenario's algorithm as a linear chain; or why none is known, in words.

    Raises:
        ValueError: the chain has no stationary law.
    """
    strategy: Any = scenario.strategy
    if (reason := _obstacle(scenario, of)) is not None:
        return reason
    cohort = _cohort(scenario, of.clients)
    everyone = cohort == of.clients
    lr = float(scenario.client.optimizer.lr)
    here: Any = {"lr": lr, "steps": _steps(scenario)}
    few = "no law where few clients take part: their choice is noise that changes the chain from round to round"
    match strategy.name:
        case "fsgld" if strategy.conducive and not _diagonal(of):
            return "no law of surrogates that do not fit: they are diagonal; see data.correlated"
        case "fsgld" if strategy.conducive:
            return laws.fsgld(of, shares, **here, temperature=temperature, conducive=True)
        case "fedsghmc":
            return _fedsghmc(scenario, of, shares, cohort=cohort, temperature=temperature)
        case _ if not everyone:
            return few
        case "fedavg":
            return laws.fedavg(of, shares, **here, server_lr=1.0, momentum=0.0)
        case "fedavgm" if strategy.form == "heavy_ball" and not strategy.dampening:
            server: Any = {"server_lr": strategy.server_learning_rate, "momentum": strategy.server_momentum}
            return laws.fedavg(of, shares, **here, **server)
        case "fedpa":
            return _fedpa(scenario, of, shares)
        case "fald":
            return laws.fald(of, shares, **here, temperature=temperature, correlation=strategy.correlation)
        case "fsgld":
            return laws.fsgld(of, shares, **here, temperature=temperature, conducive=False)
        case "dglmc":
            return laws.dglmc(of, shares, **here, temperature=temperature, tolerance=strategy.tolerance)
        case "qlsd" if not (strategy.star and strategy.refresh):
            kept = kept_count(of.dim, keep=strategy.keep)
            reference = np.zeros(of.dim) if strategy.star else None  # the model that runs begin with
            return laws.qlsd(of, shares, lr=lr, temperature=temperature, kept=kept, reference=reference)
    return f"no law of '{strategy.name}' with these settings is known"


def _obstacle(scenario: FederatedScenario, of: Quadratics) -> str | None:
    """Say what makes a run other than a linear chain."""
    client: Any = scenario.client
    strategy, there = scenario.strategy, scenario.participation
    rule = "sgld" if strategy.name == "fedpa" else "sgd"
    if client.optimizer.name != rule:
        return f"no law where clients step by '{client.optimizer.name}': '{strategy.name}' has one with '{rule}'"
    size = float("inf") if client.batch_size == "all" else float(client.batch_size)
    if size < of.sizes.max():
        return "no law where gradients are of minibatches; set client.batch_size to all"
    for name, odd in (
        ("client.lr_schedule", client.lr_schedule.name != "constant"),
        ("client.clip_norm", client.clip_norm is not None),
        ("client.method", client.method is not None),
        ("client.adapt", bool(client.adaptive)),
        ("strategy.step_schedule", getattr(strategy, "step_schedule", None) is not None),
        ("strategy.aggregator", getattr(strategy, "aggregator", None) is not None),
        ("strategy.privacy", getattr(strategy, "privacy", None) is not None),
        ("strategy.clip_update", getattr(strategy, "clip_update", None) is not None),
        ("participation.availability", there.availability is not None),
        ("participation.dropout", there.dropout != 0.0),
        ("participation.stragglers", there.stragglers is not None),
    ):
        if odd:
            return f"no law with {name}"
    return None


def _diagonal(of: Quadratics) -> bool:
    """Say whether every client's curvature is diagonal, up to the rounding of its inputs."""
    off = of.hessians * (1.0 - np.eye(of.dim))
    return bool(np.abs(off).max(initial=0.0) < 1e-4 * np.abs(of.hessians).max())


def _steps(scenario: FederatedScenario) -> int:
    """Give the local steps of a client, whose batch is all it has."""
    client = scenario.client
    return int(client.steps if client.steps is not None else client.epochs or 1)


def _cohort(scenario: FederatedScenario, clients: int) -> int:
    there: Any = scenario.participation
    if there.name == "bernoulli":
        return clients if there.probability == 1.0 else 0
    if there.count is not None:
        return int(min(there.count, clients))
    return max(1, math.floor(clients * float(there.fraction) + 1e-9))  # as strategies.cohort has it


def _fedsghmc(
    scenario: FederatedScenario, of: Quadratics, shares: Array, *, cohort: int, temperature: float
) -> LinearChain | str:
    strategy: Any = scenario.strategy
    some = cohort < of.clients
    if some and (scenario.participation.name != "uniform" or np.ptp(shares) > 1e-12 or cohort < 1):
        return "no law where few clients take part, unless they are equally likely and of one size"
    if some and strategy.correction == "mean":
        return "no law of a correction that is one number for all weights"
    return laws.fedsghmc(
        of,
        shares,
        lr=float(scenario.client.optimizer.lr),
        steps=_steps(scenario),
        server_lr=strategy.server_learning_rate,
        friction=strategy.friction,
        temperature=temperature,
        cohort=cohort,
        corrected=strategy.correction == "coordinate",
    )


def _fedpa(scenario: FederatedScenario, of: Quadratics, shares: Array) -> LinearChain | str:
    strategy: Any = scenario.strategy
    optimizer: Any = scenario.client.optimizer
    kept = scenario.evaluate.posterior
    assert kept is not None
    if strategy.samples < 2 or strategy.burn_in_rounds > kept.burn_in:
        return "no law of fewer than two samples, or of rounds of ordinary updates after evaluate.posterior.burn_in"
    wanted = optimizer.temperature
    return laws.fedpa(
        of,
        shares,
        lr=float(optimizer.lr),
        steps=_steps(scenario),
        client_temperature=float(1.0 / of.sizes.sum() if wanted is None else wanted),
        samples=strategy.samples,
        shrinkage=strategy.shrinkage,
        averaged=strategy.averaged,
        server_lr=strategy.server_learning_rate,
        momentum=strategy.server_momentum,
    )
