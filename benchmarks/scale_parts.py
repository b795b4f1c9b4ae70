"""The measurements of the scale benchmark; each runs in a process of its own and prints JSON on its last line."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EACH = 2
"""Examples of a registered client."""
CLASSES = 10
COHORT = 1000
WARM_UP = 3
"""Rounds left out: imports, first allocations."""


def make_data(folder: str, registered: int) -> None:
    """Write one data set with a natural client for every two examples."""
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.standard_normal((EACH * registered, 8), dtype=np.float32)
    y = np.abs(10 * x[:, 0]).astype(np.int64) % CLASSES
    groups = np.repeat(np.arange(registered), EACH)
    np.savez(Path(folder) / "data.npz", x=x, y=y, test_x=x[:1000], test_y=y[:1000], groups=groups)


def clients(folder: str, registered: int) -> dict[str, Any]:
    """Run rounds of 1,000 clients, where so many of the natural clients are registered; all that ``fm.run`` does."""
    import yaml

    import fedmomentum as fm
    from fedmomentum.cli.quiet import hush

    hush()
    scenario = {
        "name": "scale",
        "rounds": 15,
        "data": {
            "name": "npz",
            "path": f"{folder}/data.npz",
            "partition": {"name": "natural", "clients": registered},
        },
        "model": {"name": "logistic"},
        "client": {"optimizer": {"name": "sgd", "lr": 0.1}, "batch_size": EACH},
        "strategy": {"name": "fedavg"},
        "participation": {"name": "uniform", "count": COHORT},
        "engine": {"name": "inline"},
    }
    file = Path(folder) / f"{registered}.yaml"
    file.write_text(yaml.safe_dump(scenario))
    run = fm.run(file, out=f"{folder}/runs")
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()][WARM_UP:]
    return {
        "seconds": [row["seconds"] for row in rows],
        "configure": statistics.median(row["seconds_configure"] for row in rows),
        "peak": peak(),
    }


def partitions(registered: int) -> dict[str, dict[str, float]]:
    """Time the partitioners."""
    import numpy as np

    from fedmomentum.data import partition

    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 4 * registered)
    groups = rng.permutation(np.arange(4 * registered) % registered)
    options: dict[str, dict[str, float]] = {
        "iid": {},
        "shards": {},
        "quantity": {"sigma": 1.0},
        "natural": {},
        "dirichlet": {"alpha": 0.3},
        "dirichlet_per_class": {"alpha": 0.3},
    }
    found = {}
    for name, wanted in options.items():
        began, cpu = time.perf_counter(), time.process_time()
        partition(name, labels=labels, groups=groups, clients=registered, seed=0, **wanted)
        found[name] = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    return found


WIDTH = 1024
WATCHED = 3
"""Rounds of a large model whose memory is watched."""


def deep(*, input_shape: tuple[int, ...], classes: int, layers: int) -> Any:
    """Give a dense network of so many layers of 1024 x 1024: 1.05 million parameters a layer."""
    from torch import nn

    hidden = [module for _ in range(layers) for module in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(nn.Linear(input_shape[0], WIDTH), nn.ReLU(), *hidden, nn.Linear(WIDTH, classes))


def models(layers: int, workers: int, clients: int, rule: str = "heavy_ball", server: str = "fedavg") -> dict[str, Any]:
    """Train rounds of a model on so many actors (0: in this process); give bytes that moved and memory at its peak.

    Memory is that of the first rounds, seconds those of as many more: to look at the memory of large processes stops
    them for a quarter of the time.
    """
    from contextlib import ExitStack
    from functools import partial

    import numpy as np

    from benchmarks.memory import Peaks

    if workers:
        from fedmomentum.simulation.ray_pool import RayPoolStart

        starting = RayPoolStart(workers=workers)
    from fedmomentum.clients.network import Network
    from fedmomentum.clients.spec import ClientSpec, ModelSpec
    from fedmomentum.clients.worker import Worker
    from fedmomentum.data import Dataset, FederatedData, Partition
    from fedmomentum.simulation.executor import InlineExecutor
    from fedmomentum.simulation.grid import SimulationGrid
    from fedmomentum.simulation.loop import run_rounds
    from fedmomentum.strategies import STRATEGIES
    from fedmomentum.strategies.records import record

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4 * clients, 32), dtype=np.float32), np.arange(4 * clients) % 10
    dataset = Dataset(name="noise", x=x, y=y, test_x=x[:1], test_y=y[:1], classes=10)
    data = FederatedData.build(dataset, Partition(np.arange(len(y)), np.arange(clients + 1) * 4))
    spec = ClientSpec(
        model=ModelSpec("benchmarks.scale_parts:deep", (32,), 10, options={"layers": layers}),
        optimizer={"name": rule, "lr": 0.01} | ({"momentum": 0.9} if rule == "heavy_ball" else {}),
        batch_size=4,
        vectorize="off",
    )
    tree = Network(spec.model).tree()
    size = sum(x.nbytes for x in tree.values())
    first = [record(tree)]  # handed over, not kept
    del tree
    make = partial(Worker, spec)
    if workers:
        from fedmomentum.simulation.ray_executor import RayExecutor

        executor: Any = RayExecutor(make, data, pool=starting.pool())
    else:
        executor = InlineExecutor(make, data)
    grid = SimulationGrid(executor, spec, data.sizes)
    moved, seconds, last = [], [], [time.perf_counter()]
    watching = ExitStack()

    def after_round(server_round: int, model: Any) -> None:
        moved.append((grid.report.broadcast_bytes + grid.report.gathered_bytes) / size)
        if server_round == WATCHED:
            watching.close()
        now = time.perf_counter()
        if server_round > WATCHED:
            seconds.append(now - last[0])
        last[0] = now

    with watching:
        peaks = watching.enter_context(Peaks())
        strategy = STRATEGIES[server](fraction_evaluate=0.0)
        result = run_rounds(strategy, grid, first.pop(), 2 * WATCHED, after_round=after_round)
    bits = hashlib.sha256(b"".join(array.data[-64:] for array in result.arrays.values())).hexdigest()
    executor.close()
    if workers:
        starting.close()
    return {
        "model_bytes": size,
        "moved_in_models": max(moved),
        "seconds": statistics.median(seconds),
        "bits": bits,
        **peaks.found,
    }


def worker(layers: int, rule: str, method: str = "local_sgd") -> dict[str, Any]:
    """Train 8 clients, two steps each, on one worker in this process; give memory at its peak beside what it is sent.

    What it is sent lies in a file that is only read, as it does in shared memory.
    """
    import tempfile

    import numpy as np

    from benchmarks.memory import Peaks
    from fedmomentum.clients.block import BlockTask
    from fedmomentum.clients.fold import Bundle
    from fedmomentum.clients.spec import ClientSpec, ModelSpec
    from fedmomentum.clients.worker import Worker
    from fedmomentum.data import Dataset, FederatedData, Partition

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 32), dtype=np.float32), np.arange(64) % 10
    dataset = Dataset(name="noise", x=x, y=y, test_x=x[:1], test_y=y[:1], classes=10)
    spec = ClientSpec(
        model=ModelSpec("benchmarks.scale_parts:deep", (32,), 10, options={"layers": layers}),
        optimizer={"name": rule, "lr": 0.01},
        method=method,
        method_options={"fedprox": {"mu": 0.1}}.get(method, {}),
        batch_size=4,
        vectorize="off",
    )
    trainer = Worker(spec, FederatedData.build(dataset, Partition(np.arange(64), np.arange(9) * 8)))
    with tempfile.TemporaryDirectory() as folder:
        sent = {}
        for i, (name, tensor) in enumerate(trainer.network.tree().items()):
            with Path(f"{folder}/{i}.npy").open("wb") as file:
                np.save(file, tensor.clone().numpy())  # a tensor that numpy has seen is never released
                os.fsync(file.fileno())  # a page that waits to be written counts as written by who reads it
            sent[name] = np.load(f"{folder}/{i}.npy", mmap_mode="r")
        size = sum(a.nbytes for a in sent.values())
        trainer._release()
        tasks = [BlockTask(index=i, kind="train", round=1, clients=(i,), fold=True) for i in range(8)]
        began = time.perf_counter()
        with Peaks(period=0.01) as peaks:
            result = trainer.run(Bundle(tuple(tasks)), {"arrays": sent})
        seconds = time.perf_counter() - began
    if result is None or result.failures or result.sums is None:
        raise SystemExit(f"clients failed: {result and result.failures}")
    return {"model_bytes": size, "seconds": seconds, "worker": peaks.found["driver"]}


def workers(count: int, clients: int, model: str, rounds: int) -> dict[str, Any]:
    """Train rounds of workload W's clients on so many actors (0: in this process); give seconds and memory by round.

    Memory is a list by process: this one, then each actor.
    """
    from functools import partial

    import numpy as np
    import psutil

    from benchmarks.memory import written
    from benchmarks.workload import BATCH, EXAMPLES, LR, MODELS, MOMENTUM, client_data

    if count:
        from fedmomentum.simulation.ray_pool import RayPoolStart

        starting = RayPoolStart(workers=count)
    from fedmomentum.clients.network import Network
    from fedmomentum.clients.spec import ClientSpec, ModelSpec
    from fedmomentum.clients.worker import Worker
    from fedmomentum.data import Dataset, FederatedData, Partition, arrange
    from fedmomentum.simulation.executor import InlineExecutor
    from fedmomentum.simulation.grid import SimulationGrid
    from fedmomentum.simulation.loop import run_rounds
    from fedmomentum.strategies import FedAvgM
    from fedmomentum.strategies.records import record

    parts = [client_data(c) for c in range(clients)]
    x, y = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
    dataset = Dataset(name="W", x=x, y=y, test_x=x[:1], test_y=y[:1], classes=10)
    data = arrange(FederatedData.build(dataset, Partition(np.arange(len(y)), np.arange(clients + 1) * EXAMPLES)))
    spec = ClientSpec(
        model=ModelSpec(MODELS[model], (1, 28, 28), 10),
        optimizer={"name": "heavy_ball", "lr": LR, "momentum": MOMENTUM},
        batch_size=BATCH,
    )
    make = partial(Worker, spec)
    if count:
        from fedmomentum.simulation.ray_executor import RayExecutor

        executor: Any = RayExecutor(make, data, pool=starting.pool())
    else:
        executor = InlineExecutor(make, data)
    grid = SimulationGrid(executor, spec, data.sizes, stacked=model != "cnn")
    own = psutil.Process()
    family = [own, *(p for p in own.children(recursive=True) if p.name().startswith("ray::"))]
    seconds: list[float] = []
    memory: list[list[int]] = [[] for _ in family]
    began = time.perf_counter()

    def after_round(server_round: int, arrays: Any) -> None:
        nonlocal began
        seconds.append(time.perf_counter() - began)
        if server_round % max(rounds // 40, 1) == 0:
            for process, seen in zip(family, memory, strict=True):
                seen.append(written(process))
        began = time.perf_counter()  # to read the memory of large processes takes as long as a short round

    first = record(Network(spec.model).tree())
    run_rounds(FedAvgM(fraction_evaluate=0.0, server_momentum=0.9), grid, first, rounds, after_round=after_round)
    executor.close()
    if count:
        starting.close()
    return {"seconds": seconds[1 + WARM_UP :], "memory": memory}


def peak() -> int:
    """Give the largest resident size of this process so far, in bytes."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


PARTS: dict[str, Callable[..., Any]] = {
    "make-data": make_data,
    "clients": clients,
    "partitions": partitions,
    "models": models,
    "worker": worker,
    "workers": workers,
}


def main(part: str, *arguments: str) -> None:
    """Run one part and print what it found."""
    found = PARTS[part](*(int(a) if a.isdigit() else a for a in arguments))
    print("\n" + json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
