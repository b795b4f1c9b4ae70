"""From a validated scenario to its server half: who takes part in a round, the strategy, and what goes wrong."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.serverapp.strategy import Strategy

from fedmomentum.build_data import options
from fedmomentum.clients.network import Network
from fedmomentum.data import FederatedData
from fedmomentum.errors import UserError
from fedmomentum.optim import make_rule
from fedmomentum.simulation.faults import Faults, Stragglers
from fedmomentum.strategies import QLSD, STRATEGIES, FedAvg, Foreign, MimeLite, Privacy
from fedmomentum.strategies import cohort as cohorts
from fedmomentum.strategies.robust import AGGREGATORS
from fedmomentum.strategies.sampling import Sampling
from fedmomentum.translate import factor, optimizer

if TYPE_CHECKING:
    from fedmomentum.scenario import FederatedScenario

_FAULTS = ("availability", "dropout", "stragglers")
_COMBINATION = ("aggregator", "step_schedule", "privacy")
_FEWEST = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")


def at_posterior(wanted: dict[str, Any], settings: Any, data: FederatedData) -> dict[str, Any]:
    """Fill in the temperature that a scenario leaves to the data: one over the number of training examples."""
    if "temperature" in type(settings).model_fields and settings.temperature is None:
        return wanted | {"temperature": 1.0 / float(np.asarray(data.sizes).sum())}
    return wanted


def build_cohort(scenario: FederatedScenario, data: FederatedData) -> cohorts.Cohort:
    """Give the policy that chooses the clients of a round."""
    settings = scenario.participation
    choice: cohorts.Cohort
    if settings.name == "bernoulli":
        choice = cohorts.BernoulliCohort(
            probability=settings.probability,
            redraw=getattr(scenario.strategy, "privacy", None) is None,
            seed=scenario.seed,
        )
    elif settings.name == "weighted":
        choice = cohorts.WeightedCohort(
            weights=data.sizes, minimum=1, **options(settings, *_FAULTS), seed=scenario.seed
        )
    else:
        choice = cohorts.UniformCohort(**options(settings, *_FAULTS), minimum=1, seed=scenario.seed)
    if (day := settings.availability) is not None:
        share = day.window / day.period
        choice = cohorts.CyclicCohort(inner=choice, period=day.period, window=share, seed=scenario.seed)
    return choice


def build_strategy(scenario: FederatedScenario, data: FederatedData, network: Network) -> Strategy:
    """Give the server half, with the cohort policy of the scenario in it or around it."""
    settings = scenario.strategy
    wanted = options(settings, "options", *_COMBINATION) | dict(getattr(settings, "options", None) or {})
    clients = scenario.evaluate.clients
    if settings.name not in STRATEGIES:
        return _foreign_strategy(scenario, data, wanted)
    wanted = at_posterior(wanted, settings, data)
    strategy_class = STRATEGIES[settings.name]
    if issubclass(strategy_class, Sampling) and wanted.pop("weighting") == "examples":
        wanted["examples"] = float(np.asarray(data.sizes).sum())
    if issubclass(strategy_class, QLSD):
        wanted["weight_decay"] = scenario.client.optimizer.weight_decay
    if (rule := getattr(settings, "rule", None)) is not None:
        wanted["rule"] = make_rule(**optimizer(rule))
    if issubclass(STRATEGIES[settings.name], MimeLite):
        wanted["rule"] = make_rule(**optimizer(scenario.client.optimizer))
    if (aggregator := getattr(settings, "aggregator", None)) is not None:
        wanted["aggregator"] = AGGREGATORS[aggregator.name](**options(aggregator))
    if (schedule := getattr(settings, "step_schedule", None)) is not None:
        wanted["step_schedule"] = factor(schedule)
    if (privacy := getattr(settings, "privacy", None)) is not None:
        if network.buffers and scenario.client.batch_norm != "freeze":
            raise UserError(
                f"strategy.privacy: the statistics of batch norm in '{scenario.model.name}' are not covered; take a "
                "model without, or client.batch_norm: freeze"
            )
        wanted["privacy"] = Privacy(**options(privacy))
    return STRATEGIES[settings.name](
        **wanted,
        seed=scenario.seed,
        cohort=build_cohort(scenario, data),
        fraction_evaluate=clients,
        min_evaluate_nodes=1 if clients else 0,
        min_train_nodes=1,
        min_available_nodes=1,
        buffers=tuple(network.buffers),
    )


def _foreign_strategy(scenario: FederatedScenario, data: FederatedData, wanted: Mapping[str, Any]) -> Strategy:
    """Give a strategy of the user's own or of Flower's, over the cohorts of the scenario.

    Raises:
        UserError: it cannot be imported or made, or it is no strategy.
    """
    import importlib

    name = scenario.strategy.name
    module, _, attribute = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), attribute)
        known = inspect.signature(make).parameters
        made: object = make(**{**{few: 1 for few in _FEWEST if few in known}, **wanted})
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"strategy.name: '{name}' cannot be made: {error}") from error
    if not isinstance(made, Strategy):
        raise UserError(
            f"strategy.name: '{name}' gives a {type(made).__name__}, not a flwr.serverapp.strategy.Strategy"
        )
    cohort = build_cohort(scenario, data)
    if isinstance(made, FedAvg):
        made.cohort = made.cohort or cohort
        return made
    share = scenario.evaluate.clients
    judges = cohorts.UniformCohort(fraction=share, seed=scenario.seed, stream="evaluate-cohort") if share else None
    return Foreign(made, train=cohort, evaluate=judges, seed=scenario.seed)


def build_faults(scenario: FederatedScenario, clients: int) -> Faults:
    """Give what goes wrong in the scenario.

    Raises:
        UserError: the trace of dropouts is not as it should be, or names a client that is not among so many.
    """
    settings = scenario.participation
    stragglers = settings.stragglers
    dropout = settings.dropout
    return Faults(
        dropout=dropout if isinstance(dropout, float | int) else 0.0,
        trace=None if isinstance(dropout, float | int) else read_trace(dropout.trace, clients),
        stragglers=None
        if stragglers is None
        else Stragglers(sigma=stragglers.sigma, deadline=stragglers.deadline, late=stragglers.late, seed=scenario.seed),
        seed=scenario.seed,
    )


def read_trace(path: str, clients: int) -> dict[int, frozenset[int]]:
    """Read a dropout trace: lines of ``round,client`` under that heading, rounds from 1, clients from 0.

    Raises:
        UserError: the file or a line of it is not as it should be; the message names file and line.
    """
    import csv

    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the dropout trace: {error}") from error
    if not lines or [c.strip() for c in lines[0].split(",")] != ["round", "client"]:
        raise UserError(f"{path}:1: a dropout trace begins with the line 'round,client'")
    trace: dict[int, set[int]] = {}
    for number, row in enumerate(csv.reader(lines[1:]), start=2):
        if not row:
            continue
        try:
            server_round, client = (int(cell) for cell in row)
        except ValueError:
            raise UserError(
                f"{path}:{number}: expected two whole numbers, round and client, not {','.join(row)!r}"
            ) from None
        if server_round < 1 or not 0 <= client < clients:
            raise UserError(
                f"{path}:{number}: rounds count from 1 and clients from 0 to {clients - 1}, so there is no round "
                f"{server_round} with a client {client}"
            )
        trace.setdefault(server_round, set()).add(client)
    return {server_round: frozenset(clients) for server_round, clients in trace.items()}
