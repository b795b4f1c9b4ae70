"""Clients a second on a GPU, ours beside a plain loop on the same device, in one run: ``python -m benchmarks.gpu``.

Workload W (100 clients of 100 examples, batches of 20) with its three models, and the CNN of the FedAvgM baseline on
batches of 64. One process, no Ray: the data and the worker are on the device. Needs torch, numpy and scipy only, and
says so where there is no GPU. The two alternate within a repeat; reported are medians. To see every case work once on a
machine without one, the way it would on a GPU: ``python -m benchmarks.gpu --device cpu --clients 4 --repeats 1``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.workload import BATCH, CLIENTS, EXAMPLES, LR, MODELS, MOMENTUM, client_data
from fedmomentum.clients.compiled import Compile

BASELINE, BASELINE_BATCH = "cnn_fedavgm", 64
CASES = {**{name: (model, BATCH) for name, model in MODELS.items()}, "baseline": (BASELINE, BASELINE_BATCH)}
MODE: Compile = "reduce-overhead"
"""Of compiling: CUDA graphs on a GPU; on a CPU it is the default one."""
BLOCK = 50
"""Clients that train together, where they train stacked."""


def plain(model: str, batch: int, clients: int, device: torch.device) -> Callable[[int], dict[str, Tensor]]:
    """Give a round of a plain loop: one module, one client after another, nothing that waits for the device."""
    from fedmomentum.models import build

    module: nn.Module = build(model, input_shape=(1, 28, 28), classes=10, seed=0).to(device)
    server = {n: t.clone() for n, t in module.state_dict().items()}
    data = [tuple(torch.from_numpy(a).to(device) for a in client_data(c)) for c in range(clients)]

    def one_round(server_round: int) -> dict[str, Tensor]:
        total = {n: torch.zeros_like(t) for n, t in server.items()}
        for client, (x, y) in enumerate(data):
            module.load_state_dict(server)
            optimizer = torch.optim.SGD(module.parameters(), lr=LR, momentum=MOMENTUM)
            order = torch.from_numpy(np.random.default_rng((server_round, client)).permutation(EXAMPLES)).to(device)
            for begin in range(0, EXAMPLES, batch):
                rows = order[begin : begin + batch]
                optimizer.zero_grad()
                nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
                optimizer.step()
            for n, t in module.state_dict().items():
                total[n] += (t / clients).to(t.dtype)
        return total

    return one_round


def ours(
    model: str, batch: int, clients: int, device: torch.device, mode: Compile = "none"
) -> tuple[Callable[[int], object], str]:
    """Give a round of a worker of ours, and how it trains; ``mode`` compiles its network."""
    from fedmomentum.clients.block import BlockTask
    from fedmomentum.clients.network import build
    from fedmomentum.clients.spec import ClientSpec, ModelSpec
    from fedmomentum.clients.vectorize import choose, training_path
    from fedmomentum.clients.worker import Worker
    from fedmomentum.data import Dataset, FederatedData, Partition, arrange
    from fedmomentum.protocol import ARRAYS

    parts = [client_data(c) for c in range(clients)]
    x, y = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
    dataset = Dataset(name="W", x=x, y=y, test_x=x[:1], test_y=y[:1], classes=10)
    data = arrange(FederatedData.build(dataset, Partition(np.arange(len(y)), np.arange(clients + 1) * EXAMPLES)))
    described = ModelSpec(model, (1, 28, 28), 10)
    stacked = choose(build(described), "auto", "cuda", mode)[0]  # also where it only is tried out
    spec = ClientSpec(
        model=described,
        optimizer={"name": "heavy_ball", "lr": LR, "momentum": MOMENTUM},
        batch_size=batch,
        device=str(device),
        vectorize="on" if stacked else "off",
        compile=mode,
    )
    worker = Worker(spec, data)
    records = {ARRAYS: {n: t.detach().cpu().numpy().copy() for n, t in worker.network.tree().items()}}

    def one_round(server_round: int) -> object:
        blocks = [tuple(range(first, min(first + BLOCK, clients))) for first in range(0, clients, BLOCK)]
        tasks = [BlockTask(index=i, kind="train", round=server_round, clients=b) for i, b in enumerate(blocks)]
        results = [worker.run(task, records) for task in tasks]
        failed = [failure for result in results if result for failure in result.failures]
        if failed:
            raise SystemExit(f"client {failed[0].client} failed: {failed[0].reason}")
        return results

    return one_round, training_path(worker.network, spec, data.sizes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--clients", type=int, default=CLIENTS, help=f"a round (default: {CLIENTS})")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of each, after one to warm up")
    parser.add_argument("--device", default="cuda", help="default: cuda; cpu only to try the program out")
    parser.add_argument("--tf32", action="store_true", help="let both use TF32 for matrix products and convolutions")
    parser.add_argument("--no-compile", action="store_true", help="leave engine.compile out")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"gpu: torch {torch.__version__} sees no CUDA device; nothing was measured")
        return 0
    device = torch.device(options.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread"
    if device.type == "cpu":
        torch.set_num_threads(1)
    precision = f"TF32 {'on' if options.tf32 else 'off'}"
    print(f"{name}, torch {torch.__version__}, {precision}, {options.clients} clients a round\n")
    print(
        "| model | plain loop, clients / s | fedmomentum, clients / s | ratio | how ours trains | "
        "compiled, clients / s | s to compile |"
    )
    print("|---|---|---|---|---|---|---|")
    found: dict[str, dict[str, object]] = {}
    for case in options.models:
        model, batch = CASES[case]
        mine, how = ours(model, batch, options.clients, device)
        rounds: dict[str, Callable[[int], object]] = {
            "plain": plain(model, batch, options.clients, device),
            "ours": mine,
        }
        compiling = float("nan")
        if not options.no_compile:
            began = _now(device)
            rounds["compiled"], _ = ours(model, batch, options.clients, device, MODE)
            rounds["compiled"](0)
            compiling = _now(device) - began
        seconds: dict[str, list[float]] = {column: [] for column in rounds}
        for repeat in range(options.repeats + 1):
            for column, one_round in rounds.items():
                began = _now(device)
                one_round(repeat)
                seconds[column].append(_now(device) - began)
        rate = {column: options.clients / statistics.median(values[1:]) for column, values in seconds.items()}
        found[case] = {**rate, "ratio": rate["ours"] / rate["plain"], "how": how, "compiling": compiling}
        code = f"{rate['compiled']:.0f} | {compiling:.1f}" if "compiled" in rate else "- | -"
        ratio = f"{rate['ours'] / rate['plain']:.1f}x"
        print(f"| {case} | {rate['plain']:.0f} | {rate['ours']:.0f} | {ratio} | {how} | {code} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"device": name, "tf32": options.tf32, "found": found}, indent=2) + "\n")
    return 0


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    sys.exit(main())
