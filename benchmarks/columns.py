"""The columns of the engine benchmark, each run in a process of its own that prints the end time of every round."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from benchmarks.workload import BATCH, CLIENTS, EXAMPLES, LR, MODELS, MOMENTUM, client_data, network, train

STARTED = time.time()


Ends = tuple[list[float], float | None]
"""When each round ended, and when the last of all actors began to work, where there are any."""


def bare_loop(model: str, rounds: int) -> Ends:
    """A plain torch loop over the clients in one process and one thread: no framework at all."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    data = [tuple(torch.from_numpy(a) for a in client_data(c)) for c in range(CLIENTS)]
    server = {n: t.clone() for n, t in network(model).state_dict().items()}
    module, ends = network(model), []
    for server_round in range(rounds):
        total = {n: torch.zeros_like(t) for n, t in server.items()}
        for client, (x, y) in enumerate(data):
            module.load_state_dict(server)
            train(module, x, y, np.random.default_rng((server_round, client)))
            for n, t in module.state_dict().items():
                total[n] += t / CLIENTS
        server = total
        ends.append(time.time())
    return ends, None


def flower_simulation(model: str, rounds: int) -> Ends:
    """Flower's own simulation engine with its FedAvg and a plain PyTorch client, one CPU a client."""
    import numpy as np
    import torch
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    client_app, server_app, ends = ClientApp(), ServerApp(), []

    @client_app.train()
    def fit(message, context):
        torch.set_num_threads(1)
        client = context.node_config["partition-id"]
        module = network(model)
        module.load_state_dict(message.content["arrays"].to_torch_state_dict())
        x, y = (torch.from_numpy(a) for a in _cached(client))
        loss = train(module, x, y, np.random.default_rng((message.content["config"]["server-round"], client)))
        content = {
            "arrays": ArrayRecord(module.state_dict()),
            "metrics": MetricRecord({"loss": loss, "num-examples": len(y)}),
        }
        return Message(RecordDict(content), reply_to=message)

    class Timed(FedAvg):
        def aggregate_train(self, server_round, replies):
            result = super().aggregate_train(server_round, replies)
            ends.append(time.time())
            return result

    @server_app.main()
    def main(grid, context):
        Timed(fraction_evaluate=0.0).start(grid, ArrayRecord(network(model).state_dict()), num_rounds=rounds)

    run_simulation(
        server_app, client_app, CLIENTS, backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    )
    return ends, None


_CACHE: dict[int, tuple] = {}


def _cached(client: int) -> tuple:
    if client not in _CACHE:
        _CACHE[client] = client_data(client)
    return _CACHE[client]


def ours(
    model: str,
    rounds: int,
    *,
    engine: str,
    workers: int = 2,
    precision: str = "float32",
    compiled: bool = True,
) -> Ends:
    """Our engine under our FedAvg, through the same round loop that scenarios use.

    With Ray this process runs blocks until the actors are there, as a run of a scenario does. Rounds go on until so
    many have ended after all actors had begun to work.
    """
    import numpy as np

    from fedmomentum.garbage import set_aside
    from fedmomentum.scenario.running import Engine
    from fedmomentum.simulation.actors import Actors

    actors, settings = Actors(), Engine(name=engine, workers=workers)
    actors.start(settings)
    from fedmomentum.clients.library import available
    from fedmomentum.clients.network import Network
    from fedmomentum.clients.spec import ClientSpec, ModelSpec
    from fedmomentum.clients.worker import Worker
    from fedmomentum.data import Dataset, FederatedData, Partition, arrange
    from fedmomentum.simulation.early import EarlyExecutor
    from fedmomentum.simulation.executor import InlineExecutor
    from fedmomentum.simulation.flower import to_record
    from fedmomentum.simulation.grid import SimulationGrid
    from fedmomentum.simulation.loop import run_rounds
    from fedmomentum.strategies import FedAvg

    parts = [client_data(c) for c in range(CLIENTS)]
    x, y = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
    dataset = Dataset(name="W", x=x, y=y, test_x=x[:1], test_y=y[:1], classes=10)
    data = arrange(FederatedData.build(dataset, Partition(np.arange(len(y)), np.arange(CLIENTS + 1) * EXAMPLES)))
    spec = ClientSpec(
        model=ModelSpec(MODELS[model], (1, 28, 28), 10),
        optimizer={"name": "heavy_ball", "lr": LR, "momentum": MOMENTUM},
        batch_size=BATCH,
        precision=precision,
        native=compiled and available(),
    )
    make = partial(Worker, spec)

    def later():
        from fedmomentum.simulation.ray_executor import RayExecutor

        pool = actors.coming(settings)
        return None if pool is None else RayExecutor(make, data, pool=pool)

    executor = EarlyExecutor(make, data, later=later) if engine == "ray" else InlineExecutor(make, data)
    watch = _Watch(rounds, workers if engine == "ray" else 0)
    arrays = to_record({n: t.detach().numpy() for n, t in Network(spec.model).tree().items()})
    grid = SimulationGrid(executor, spec, data.sizes, stacked=model != "cnn")
    with set_aside(), suppress(_EnoughError):
        run_rounds(FedAvg(fraction_evaluate=0.0), grid, arrays, 10**6, listeners=[watch])
    executor.close()
    actors.close()
    return watch.ends, watch.at_work


class _EnoughError(Exception):
    """All rounds that were asked for have ended."""


class _Watch:
    """A listener that notes when rounds end and when actors begin to work, and says when it is enough."""

    def __init__(self, rounds: int, actors: int) -> None:
        self.ends: list[float] = []
        self._left, self._actors = rounds, actors
        self._began: dict[int, float] = {}

    @property
    def at_work(self) -> float | None:
        return max(self._began.values()) if self._actors and len(self._began) == self._actors else None

    def start(self, event) -> None:
        """Nothing to do."""

    def end(self, event) -> None:
        """Nothing to do."""

    def round_end(self, event) -> None:
        """Note what this round says."""
        self.ends.append(time.time())
        if len(self._began) < self._actors:
            for span in event.spans:
                if span.host and span.process != os.getpid():
                    self._began[span.process] = min(self._began.get(span.process, span.began), span.began)
        if len(self._began) == self._actors:
            self._left -= 1
        if not self._left:
            raise _EnoughError


COLUMNS: dict[str, Callable[[str, int], Ends]] = {
    "bare torch loop, 1 thread": bare_loop,
    "Flower simulation": flower_simulation,
    "fedmomentum, Ray, 2 actors": partial(ours, engine="ray"),
    "fedmomentum, Ray, 2 actors, bf16": partial(ours, engine="ray", precision="bf16"),
    "fedmomentum, inline": partial(ours, engine="inline"),
    "fedmomentum, Ray, 2 actors, no compiled code": partial(ours, engine="ray", compiled=False),
}


def child(column: str, model: str, rounds: int) -> None:
    """Run one column and print when its rounds ended and its actors began, as JSON on the last line."""
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1", RAY_USAGE_STATS_ENABLED="0")
    ends, at_work = COLUMNS[column](model, rounds)
    print("\n" + json.dumps({"ends": ends, "at_work": at_work}), flush=True)


if __name__ == "__main__":
    child(sys.argv[1], sys.argv[2], int(sys.argv[3]))
