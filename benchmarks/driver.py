"""What a round costs in the process that drives it, apart from workers: ``python -m benchmarks driver``.

Rounds of the whole loop (cohort, blocks, answers, admission, metrics, mean, the server's step, rows in the run folder)
for cohorts of several sizes, all of the clients registered, with a model of workload W. Workers are stood in for by
answers that cost nothing; ``--engine ray`` or ``inline`` takes real ones. Either way the time that the executor of
tasks takes is not counted: it is the workers' and that of the messages to them.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.workload import BATCH, EXAMPLES, LR, MODELS, MOMENTUM

COHORTS = (100, 1000, 10_000)
WARM_UP = 5
PARTS = ("configure", "blocks", "answers", "aggregate", "tell")


class Stopped:
    """An executor whose time is told apart."""

    def __init__(self, executor: Any) -> None:
        """Take the executor."""
        self._executor = executor
        self.began: list[float] = []
        self.ended: list[float] = []

    def run(self, tasks: Sequence[Any], payload: Any, *, timeout: float | None = None) -> list[Any]:
        """Run the tasks, and note when."""
        self.began.append(time.perf_counter())
        results: list[Any] = self._executor.run(tasks, payload, timeout=timeout)
        self.ended.append(time.perf_counter())
        return results

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)


class Answers:
    """An executor that answers at once, in place of workers: the same losses and the same mean for every block."""

    def run(self, tasks: Sequence[Any], payload: Mapping[str, Any], *, timeout: float | None = None) -> list[Any]:
        """Answer every task with a table of numbers of its own."""
        from fedmomentum.clients.block import BlockResult
        from fedmomentum.events import Span

        results = []
        for task in tasks:
            clients = len(task.clients)
            members: dict[str, list[float]] = {
                "client": list(task.clients),
                "num-examples": [float(EXAMPLES)] * clients,
                "train_loss": [2.0 + c / 1e4 for c in task.clients],
                "steps": [float(EXAMPLES // BATCH)] * clients,
                "lr": [LR] * clients,
            }
            mean = {record: {n: 0.999 * x for n, x in arrays.items()} for record, arrays in payload.items()}
            span = Span("train", time.time(), 0.0, "host", 1, clients)
            results.append(BlockResult(task.index, members, mean, seconds=0.0, spans=(span,)))
        return results

    def facts(self) -> dict[str, object]:
        """Say how tasks run."""
        return {"engine": "answers", "workers": 1}

    def close(self) -> None:
        """Nothing to give back."""


def rounds(clients: int, count: int, engine: str, model: str = "lin") -> dict[str, float]:
    """Run rounds; give the median milliseconds of each part of the driver's work in one."""
    from functools import partial

    import numpy as np

    if engine == "ray":
        from fedmomentum.simulation.ray_pool import RayPoolStart

        starting = RayPoolStart(workers=2)
    from fedmomentum.clients.network import Network
    from fedmomentum.clients.spec import ClientSpec, ModelSpec
    from fedmomentum.clients.worker import Worker
    from fedmomentum.data import Dataset, FederatedData, Partition, arrange
    from fedmomentum.events import RoundEnd, Start
    from fedmomentum.runs import RunFolder
    from fedmomentum.runs.recorder import Recorder
    from fedmomentum.simulation.executor import InlineExecutor
    from fedmomentum.simulation.grid import SimulationGrid
    from fedmomentum.simulation.loop import run_rounds
    from fedmomentum.strategies import FedAvg
    from fedmomentum.strategies.records import record

    spec = ClientSpec(
        model=ModelSpec(MODELS[model], (1, 28, 28), 10),
        optimizer={"name": "heavy_ball", "lr": LR, "momentum": MOMENTUM},
        batch_size=BATCH,
    )
    executor: Any = Answers()
    sizes = np.full(clients, EXAMPLES)
    if engine != "none":
        rng = np.random.default_rng(0)
        x = rng.random((clients * EXAMPLES, 1, 28, 28), dtype=np.float32)
        y = rng.integers(0, 10, len(x))
        dataset = Dataset(name="noise", x=x, y=y, test_x=x[:1], test_y=y[:1], classes=10)
        data = arrange(FederatedData.build(dataset, Partition(np.arange(len(y)), np.arange(clients + 1) * EXAMPLES)))
        make = partial(Worker, spec)
        if engine == "ray":
            from fedmomentum.simulation.ray_executor import RayExecutor

            executor = RayExecutor(make, data, pool=starting.pool())
        else:
            executor = InlineExecutor(make, data)
    stopped = Stopped(executor)
    grid = SimulationGrid(stopped, spec, sizes, stacked=True)
    ends: list[float] = []
    found: list[Mapping[str, float]] = []

    class Watch:
        """Keeps the phases of every round."""

        def start(self, event: Start) -> None:
            """Nothing to do."""

        def round_end(self, event: RoundEnd) -> None:
            """Keep them."""
            found.append(dict(event.seconds_by_phase))

        def end(self, event: Any) -> None:
            """Nothing to do."""

    with tempfile.TemporaryDirectory() as out:
        recorder = Recorder(RunFolder.create(out, "driver", scenario_text="", resolved={}, hash="0" * 8))
        recorder.start(Start("driver", count))
        ends.append(time.perf_counter())
        run_rounds(
            FedAvg(fraction_evaluate=0.0),
            grid,
            record(Network(spec.model).tree()),
            count,
            listeners=[Watch(), recorder],
            after_round=lambda *_: ends.append(time.perf_counter()),
        )
    executor.close()
    if engine == "ray":
        starting.close()
    table: dict[str, list[float]] = {part: [] for part in (*PARTS, "all")}
    for i in range(WARM_UP, count):
        configure, aggregate = found[i]["configure"], found[i]["aggregate"]
        blocks = stopped.began[i] - ends[i] - configure
        answers = found[i].get("reduce", 0.0)
        all_of_it = ends[i + 1] - ends[i] - (stopped.ended[i] - stopped.began[i])
        parts = (configure, blocks, answers, aggregate, all_of_it - configure - blocks - answers - aggregate)
        for part, seconds in zip((*PARTS, "all"), (*parts, all_of_it), strict=True):
            table[part].append(1e3 * seconds)
    return {part: statistics.median(column) for part, column in table.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("none", "inline", "ray"), default="none", help="who does the work")
    parser.add_argument("--cohorts", type=int, nargs="+", default=COHORTS, help="clients a round")
    parser.add_argument("--rounds", type=int, default=100, help="of each cohort")
    parser.add_argument("--model", choices=("lin", "mlp"), default="lin", help="of workload W")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args(arguments)
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1", RAY_USAGE_STATS_ENABLED="0")
    from fedmomentum.cli.quiet import hush

    hush()
    print(f"\n| clients a round | {' | '.join(PARTS)} | all, ms a round |")
    print("|---" * (len(PARTS) + 2) + "|")
    found = {}
    for clients in options.cohorts:
        gc.collect()
        found[clients] = rounds(clients, options.rounds, options.engine, options.model)
        print(f"| {clients:,} | {' | '.join(f'{ms:.2f}' for ms in found[clients].values())} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
