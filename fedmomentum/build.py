"""From a validated scenario to the objects that run it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from fedmomentum.build_data import build_data, options
from fedmomentum.build_server import at_posterior, build_faults, build_strategy
from fedmomentum.clients.block import Arrays
from fedmomentum.clients.central import CentralTask, test_centrally
from fedmomentum.clients.compiled import check as check_compile
from fedmomentum.clients.library import available
from fedmomentum.clients.measuring import Adapt, Measure
from fedmomentum.clients.methods import make_local
from fedmomentum.clients.network import Network
from fedmomentum.clients.norm import batch_norms
from fedmomentum.clients.precision import check as check_precision
from fedmomentum.clients.rules import make_client_rule
from fedmomentum.clients.spec import ClientSpec, ModelSpec
from fedmomentum.clients.vectorize import choose, training_path
from fedmomentum.clients.worker import Worker
from fedmomentum.data import Dataset, FederatedData, arrange
from fedmomentum.errors import UserError
from fedmomentum.events import Span
from fedmomentum.heap import give_back
from fedmomentum.predicting import Predicting, build_predicting
from fedmomentum.protocol import ARRAYS, LARGE
from fedmomentum.simulation import flower
from fedmomentum.simulation.early import EarlyExecutor
from fedmomentum.simulation.executor import Answer, Executor, InlineExecutor
from fedmomentum.simulation.faults import Faults
from fedmomentum.simulation.grid import SimulationGrid
from fedmomentum.simulation.memory import ClientMemory
from fedmomentum.simulation.telling import Evaluation
from fedmomentum.strategies import FedAvg
from fedmomentum.strategies.records import record, views
from fedmomentum.translate import factor, model_options, optimizer
from fedmomentum.trees import num_bytes

if TYPE_CHECKING:
    from fedmomentum.gaussian_posterior import GaussianPosterior
    from fedmomentum.scenario import FederatedScenario
    from fedmomentum.scenario.client import Client
    from fedmomentum.simulation.ray_executor import RayExecutor
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
    predicting: Predicting | GaussianPosterior | None = None

    def initial_arrays(self) -> ArrayRecord:
        """Give the model that the rounds start from; it depends on the seed alone."""
        network = Network(self.spec.model, self.spec.device) if self.network.released else self.network
        made = record(network.tree())
        self._spare()
        return made

    def _spare(self) -> None:
        """Keep no large model beside the one that the rounds are about."""
        if num_bytes(self.network.tree()) >= LARGE:
            self.network.release()
            give_back()

    def evaluate(self, server_round: int, arrays: ArrayRecord) -> dict[str, float] | None:
        """Give loss and accuracy on the central test set, in the rounds that are to be evaluated."""
        judge = self.predicting
        if judge is not None and server_round > 0:
            judge.take(server_round, {n: torch.from_numpy(a.copy()) for n, a in flower.to_arrays(arrays).items()})
        if not self.evaluated_in(server_round):
            return None
        found = test_centrally(self._central(server_round), self._judged(arrays), self.network, self.data)
        found = found if judge is None else found | judge.metrics()
        self._spare()
        return found

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
            stacked=choose(self.network.module, self.spec.vectorize, self.spec.device, self.spec.compile)[0],
            faults=self.faults,
            memory=ClientMemory(None if limit is None else int(limit * 2**20), scratch),
        )

    def facts(self) -> dict[str, object]:
        """Say what was chosen, for the run folder and the first line on the screen."""
        stacked, reason = choose(self.network.module, self.spec.vectorize, self.spec.device, self.spec.compile)
        sizes = np.asarray(self.data.sizes)
        return {
            "model": self.spec.model.name,
            "parameters": sum(p.numel() for p in self.network.params.values()),
            "clients": self.data.clients,
            "train_examples": int(sizes.sum()),
            "test_examples": len(self.data.test_y),
            "vectorize": "stacked" if stacked else "one by one",
            "vectorize_reason": reason,
            "training": training_path(self.network, self.spec, sizes, numbers=self.data.numbers),
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
        optimizer=at_posterior(client_optimizer(client), client.optimizer, data),
        epochs=client.epochs,
        steps=client.steps,
        batch_size=None if client.batch_size == "all" else client.batch_size,
        lr_schedule=factor(client.lr_schedule),
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
        compile=scenario.engine.compile,
        gram_memory=scenario.engine.gram_memory,
        native=scenario.engine.native and available(),
    )


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
    choose(network.module, spec.vectorize, spec.device, spec.compile)
    check_precision(spec.precision, spec.device)
    check_compile(spec.compile, network.module, spec.device)
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
    judge: Predicting | GaussianPosterior | None
    if data.numbers:
        from fedmomentum.build_posterior import build_gaussian_posterior  # scipy.linalg takes its time to import

        judge = build_gaussian_posterior(scenario, data, network)
    else:
        judge = build_predicting(scenario, data, network, datasets)
    faults = build_faults(scenario, data.clients)
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


def may_begin_here(federation: Federation) -> bool:
    """Say whether this process may run blocks of a federation that actors of this machine are for.

    Not on a device of theirs, not with a model so large that memory is counted in copies of it, and not with a model of
    the user's own code, which may take down the process that it runs in: an actor is replaced then.
    """
    spec, size = federation.spec, num_bytes(federation.network.tree())
    return spec.device == "cpu" and size < LARGE and ":" not in spec.model.name


def build_early(federation: Federation, coming: Callable[[], RayPool | None]) -> EarlyExecutor:
    """Give workers in a pool of Ray actors, and one in this process until they are there.

    Args:
        federation: what they work on.
        coming: gives the pool, None as long as it is on its way.
    """
    engine = federation.scenario.engine

    def later() -> RayExecutor | None:
        pool = coming()
        return None if pool is None else build_executor(federation, pool)  # type: ignore[return-value]

    # what Ray will most likely find: a round of a large model is cut for so many, to the same bits for any number
    workers = max(1, int((os.cpu_count() or 1) / engine.cpus)) if engine.workers == "auto" else engine.workers
    facts: dict[str, object] = {"engine": "ray", "workers": workers}
    return EarlyExecutor(partial(Worker, federation.spec), federation.data, later=later, facts=facts)


def build_executor(federation: Federation, pool: RayPool | None = None) -> Executor:
    """Give the workers that a scenario asks for, in a pool of Ray actors that is there or in one of their own."""
    engine, spec = federation.scenario.engine, federation.spec
    make = partial(Worker, spec)
    data = arrange(federation.data)
    if engine.name == "inline":
        return InlineExecutor(make, data, threads=spec.threads)
    from fedmomentum.simulation.ray_executor import RayExecutor

    if pool is not None:
        return RayExecutor(make, data, pool=pool)
    workers = None if engine.workers == "auto" else engine.workers
    return RayExecutor(make, data, workers=workers, cpus=engine.cpus, gpus=engine.gpus, address=engine.address)
