"""From a validated scenario to the objects that run it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from fedmomentum.build_data import build_data, options
from fedmomentum.clients.block import Arrays
from fedmomentum.clients.central import CentralTask, test_centrally
from fedmomentum.clients.measuring import Adapt, Measure
from fedmomentum.clients.methods import make_local
from fedmomentum.clients.network import Network
from fedmomentum.clients.norm import batch_norms
from fedmomentum.clients.precision import check as check_precision
from fedmomentum.clients.rules import make_client_rule
from fedmomentum.clients.spec import ClientSpec, ModelSpec
from fedmomentum.clients.vectorize import choose, training_path
from fedmomentum.clients.worker import Worker
from fedmomentum.data import Dataset, FederatedData
from fedmomentum.errors import UserError
from fedmomentum.events import Span
from fedmomentum.optim import make_rule
from fedmomentum.optim.schedules import make_schedule
from fedmomentum.predicting import Predicting, build_predicting
from fedmomentum.protocol import ARRAYS
from fedmomentum.simulation import flower
from fedmomentum.simulation.executor import Answer, Executor, InlineExecutor
from fedmomentum.simulation.faults import Faults, Stragglers
from fedmomentum.simulation.grid import SimulationGrid
from fedmomentum.simulation.memory import ClientMemory
from fedmomentum.simulation.telling import Evaluation
from fedmomentum.strategies import QLSD, STRATEGIES, FedAvg, Foreign, MimeLite, Privacy
from fedmomentum.strategies import cohort as cohorts
from fedmomentum.strategies.records import views
from fedmomentum.strategies.robust import AGGREGATORS
from fedmomentum.strategies.sampling import Sampling
from fedmomentum.translate import model_options, optimizer

if TYPE_CHECKING:
    from fedmomentum.scenario import FederatedScenario
    from fedmomentum.scenario.client import Client
    from fedmomentum.simulation.ray_pool import RayPool


LOWEST_VARIANCE = "lowest_running_var"
"""Metric of models with batch norm: the smallest running variance. Below zero a model is broken."""


@dataclass(frozen=True)
class Federation:
    """Everything that one arm of a scenario needs, but where its blocks run."""

    scenario: FederatedScenario
    data: FederatedData
    checksum: str
    spec: ClientSpec
    network: Network
    strategy: Strategy
    faults: Faults
    predicting: Predicting | None = None

    def initial_arrays(self) -> ArrayRecord:
        """Give the model that the rounds start from; it depends on the seed alone."""
        return flower.to_record({n: t.detach().cpu().numpy() for n, t in self.network.tree().items()})

    def evaluate(self, server_round: int, arrays: ArrayRecord) -> dict[str, float] | None:
        """Give loss and accuracy on the central test set, in the rounds that are to be evaluated."""
        judge = self.predicting
        if judge is not None and server_round > 0:
            judge.take(server_round, {n: torch.from_numpy(a.copy()) for n, a in flower.to_arrays(arrays).items()})
        if not self.evaluated_in(server_round):
            return None
        found = test_centrally(self._central(server_round), self._judged(arrays), self.network, self.data)
        return found if judge is None else found | judge.metrics()

    def evaluation(self, executor: Executor) -> Callable[[int, ArrayRecord], Evaluation | None]:
        """Give what tests a model on a worker, where there are workers, while the next round goes on.

        Draws of a posterior stay on the server, which judges them itself.
        """
        if self.predicting is not None:
            return self.evaluate

        def test(server_round: int, arrays: ArrayRecord) -> Evaluation | None:
            if not self.evaluated_in(server_round):
                return None
            answer = executor.test(self._central(server_round), self._judged(arrays))
            return self.evaluate(server_round, arrays) if answer is None else _Tested(answer)

        return test

    def evaluated_in(self, server_round: int) -> bool:
        """Say whether the model of a round is to be tested."""
        every = self.scenario.evaluate.every
        return bool(every) and (server_round % every == 0 or server_round == self.scenario.rounds)

    def _central(self, server_round: int) -> CentralTask:
        settings = self.scenario.evaluate
        return CentralTask(server_round, self.scenario.seed, settings.batch_size, settings.recalibrate)

    def _judged(self, arrays: ArrayRecord) -> dict[str, Arrays]:
        judged = self.strategy.evaluated(arrays) if isinstance(self.strategy, FedAvg) else arrays
        return {ARRAYS: views(judged)}

    def grid(self, executor: Executor, *, scratch: Path | None = None) -> SimulationGrid:
        """Give the engine for this federation over an executor; ``scratch`` is for what clients keep past the limit."""
        size, limit = self.scenario.engine.block_size, self.scenario.engine.client_memory
        return SimulationGrid(
            executor,
            self.spec,
            self.data.sizes,
            block_size=None if size == "auto" else size,
            stacked=choose(self.network.module, self.spec.vectorize, self.spec.device)[0],
            faults=self.faults,
            memory=ClientMemory(None if limit is None else int(limit * 2**20), scratch),
        )

    def facts(self) -> dict[str, object]:
        """Say what was chosen, for the run folder and the first line on the screen."""
        stacked, reason = choose(self.network.module, self.spec.vectorize, self.spec.device)
        return {
            "model": self.spec.model.name,
            "parameters": sum(p.numel() for p in self.network.params.values()),
            "clients": self.data.clients,
            "train_examples": int(np.asarray(self.data.sizes).sum()),
            "test_examples": len(self.data.test_y),
            "vectorize": "stacked" if stacked else "one by one",
            "vectorize_reason": reason,
            "training": training_path(self.network, self.spec),
            "device": self.spec.device,
            "data_checksum": self.checksum,
        }


@dataclass(frozen=True)
class _Tested:
    """The answer of a worker that tests a model, as the round loop takes it."""

    answer: Answer

    def result(self) -> tuple[dict[str, float], tuple[Span, ...]]:
        """Wait for it."""
        found, span = self.answer.result()
        return found, (span,)


def build_spec(scenario: FederatedScenario, data: FederatedData, device: str) -> ClientSpec:
    """Give what every client of the scenario does."""
    client = scenario.client
    model = ModelSpec(
        name=scenario.model.name,
        input_shape=tuple(data.x.shape[1:]),
        classes=data.classes,
        seed=scenario.seed,
        options=model_options(scenario.model),
    )
    return ClientSpec(
        model=model,
        optimizer=_at_posterior(client_optimizer(client), client.optimizer, data),
        epochs=client.epochs,
        steps=client.steps,
        batch_size=None if client.batch_size == "all" else client.batch_size,
        lr_schedule=_factor(client.lr_schedule),
        clip_norm=client.clip_norm,
        batch_norm=client.batch_norm,
        keep_state=client.state == "keep",
        measure=Measure(client.probes, client.probe_every, **options(client.measure)),
        adapt=build_adapt(client),
        seed=scenario.seed,
        vectorize=scenario.engine.vectorize,
        device=device,
        threads=scenario.engine.threads,
        precision=scenario.engine.precision,
    )


def _at_posterior(wanted: dict[str, Any], settings: Any, data: FederatedData) -> dict[str, Any]:
    """Fill in the temperature that a scenario leaves to the data: one over the number of training examples."""
    if "temperature" in type(settings).model_fields and settings.temperature is None:
        return wanted | {"temperature": 1.0 / float(np.asarray(data.sizes).sum())}
    return wanted


def client_optimizer(client: Client) -> dict[str, Any]:
    """Give the rule of a client; what it sets by its own curvature stands at the largest value allowed."""
    wanted = optimizer(client.optimizer)
    if wanted["lr"] == "safe":
        wanted["lr"] = client.adapt.max_lr
    if wanted.get("momentum") == "critical":
        wanted["momentum"] = client.adapt.max_momentum
    return wanted


def build_adapt(client: Client) -> Adapt | None:
    """Give what clients set by their own curvature, and its bounds; None where they set nothing."""
    if not client.adaptive:
        return None
    set_by_clients = {
        key: f"{key}: {word}" in client.adaptive for key, word in (("lr", "safe"), ("momentum", "critical"))
    }
    return Adapt(**set_by_clients, **options(client.adapt))


def _factor(schedule: Any) -> Callable[[int], float] | None:
    """Give round (from 0) -> factor on the learning rate; None where it stays 1."""
    wanted = options(schedule)
    if "rounds" in wanted:
        wanted["steps"] = wanted.pop("rounds")
    return (
        None
        if schedule.name == "constant" and not wanted["warmup"]
        else make_schedule(schedule.name, value=1.0, **wanted)
    )


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


_FAULTS = ("availability", "dropout", "stragglers")


_COMBINATION = ("aggregator", "step_schedule", "privacy")


def build_strategy(scenario: FederatedScenario, data: FederatedData, network: Network) -> Strategy:
    """Give the server half, with the cohort policy of the scenario in it or around it."""
    settings = scenario.strategy
    wanted = options(settings, "options", *_COMBINATION) | dict(getattr(settings, "options", None) or {})
    clients = scenario.evaluate.clients
    if settings.name not in STRATEGIES:
        return _foreign_strategy(scenario, data, wanted)
    wanted = _at_posterior(wanted, settings, data)
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
        wanted["step_schedule"] = _factor(schedule)
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


_FEWEST = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")


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


def choose_device(scenario: FederatedScenario) -> str:
    """Give the device of the workers: a GPU if the engine was given one and torch sees it."""
    wanted = scenario.engine.device
    if wanted == "auto":
        return "cuda" if scenario.engine.gpus and torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"engine.device: '{wanted}' is not there: torch {torch.__version__} sees no GPU. Use cpu or auto."
        )
    return str(wanted)


def build(
    scenario: FederatedScenario, *, datasets: dict[str, Dataset] | None = None, data: FederatedData | None = None
) -> Federation:
    """Build everything of one arm but its executor.

    Args:
        scenario: that of the arm.
        datasets: data sets that are loaded already; one that is loaded here is added.
        data: in place of the scenario's own.

    Raises:
        UserError: something that the scenario names does not exist or does not fit.
    """
    checksum = ""
    if data is None:
        data, checksum = build_data(scenario, datasets)
    spec = build_spec(scenario, data, choose_device(scenario))
    network = Network(spec.model, spec.device)
    choose(network.module, spec.vectorize, spec.device)
    check_precision(spec.precision, spec.device)
    strategy = build_strategy(scenario, data, network)
    spec = with_client_half(spec, scenario, strategy)
    for path, asked in (
        ("strategy.name", getattr(strategy, "client_batch_norm", None) is not None),
        ("client.batch_norm", spec.batch_norm != "average"),
        ("client.probes: batch_norm", "batch_norm" in spec.measure.probes),
        ("evaluate.recalibrate", scenario.evaluate.recalibrate > 0),
    ):
        if asked and not batch_norms(network.module):
            raise UserError(f"{path}: the model '{spec.model.name}' has no batch norm; leave it out")
    faults, judge = build_faults(scenario, data.clients), build_predicting(scenario, data, network, datasets)
    return Federation(scenario, data, checksum, spec, network, strategy, faults, judge)


def with_client_half(spec: ClientSpec, scenario: FederatedScenario, strategy: Strategy) -> ClientSpec:
    """Give what clients do with the half that belongs to the strategy, or the one that the scenario names.

    Raises:
        UserError: the clients' rule does not suit it.
    """
    if isinstance(strategy, FedAvg) and strategy.client_batch_norm is not None:
        spec = replace(spec, batch_norm=strategy.client_batch_norm)
    if (named := scenario.client.method) is not None:
        method, wanted = str(named.name), options(named)
    elif isinstance(strategy, FedAvg):
        method, wanted = strategy.client_method, strategy.client_options()
    else:
        return spec
    hyper = dict(spec.optimizer)
    make_local(method, make_client_rule(hyper.pop("name"), **hyper), **wanted)
    spec = replace(spec, method=method, method_options=wanted)
    if spec.adapt is not None:
        from fedmomentum.clients.adaptive import check_adapt

        check_adapt(spec)
    return spec


def build_executor(federation: Federation, pool: RayPool | None = None) -> Executor:
    """Give the workers that a scenario asks for, in a pool of Ray actors that is there or in one of their own."""
    engine, spec = federation.scenario.engine, federation.spec
    make = partial(Worker, spec)
    if engine.name == "inline":
        return InlineExecutor(make, federation.data, threads=spec.threads)
    from fedmomentum.simulation.ray_executor import RayExecutor

    if pool is not None:
        return RayExecutor(make, federation.data, pool=pool)
    workers = None if engine.workers == "auto" else engine.workers
    return RayExecutor(
        make, federation.data, workers=workers, cpus=engine.cpus, gpus=engine.gpus, address=engine.address
    )
