"""How cost grows with clients, models, workers and rounds: ``python -m benchmarks.scale``.

``clients``: 1,000 clients a round out of 1,000,000 and out of 10,000 registered ones, the same work and the same data
set, through ``fm.run`` and the inline engine. Every run is a process of its own, the two alternate. ``partitions``:
seconds to deal out 4,000,000 examples to 1,000,000 clients. ``models``: bytes that move between the process and its
workers in a round, and memory at its peak, for models of 25 and 100 million parameters. ``worker``: memory of a worker
alone, by rule. ``workers``: strong and weak scaling from 1 to 2 Ray actors. ``rounds``: memory over 1,000 rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

ROUNDS = 1000
FEW, MANY = 10_000, 1_000_000
LAYERS, COHORT = (24, 96), 8
"""Layers of the large models, 1.05 million parameters each, and clients a round."""
LARGE_RUNS = (("sgd", "fedavg"), ("heavy_ball", "fedavg"), ("adam", "fedavg"), ("sgd", "fedadam"))
"""Rules of their clients, and strategies."""


def measure(part: str, *arguments: object) -> Any:
    """Run one measurement in a process of its own and give what it printed last."""
    command = [sys.executable, "-m", "benchmarks.scale_parts", part, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "FLWR_TELEMETRY_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{part} {arguments} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def clients(repeats: int) -> dict[str, Any]:
    """Compare a round of 1,000 clients where 10,000 and where 1,000,000 are registered."""
    found: dict[int, list[dict[str, Any]]] = {FEW: [], MANY: []}
    with tempfile.TemporaryDirectory() as folder:
        measure("make-data", folder, MANY)
        for _ in range(repeats):
            for registered in found:
                found[registered].append(measure("clients", folder, registered))
    rows = {}
    for registered, runs in found.items():
        seconds = sorted(s for run in runs for s in run["seconds"])
        rows[registered] = {
            "round_ms": 1e3 * statistics.median(seconds),
            "fastest_round_ms": 1e3 * seconds[0],
            "configure_ms": 1e3 * statistics.median(run["configure"] for run in runs),
            "peak_mib": statistics.median(run["peak"] for run in runs) / 2**20,
        }
    few, many = rows[FEW], rows[MANY]
    print("\n| registered | ms / round (median) | fastest | of which configure | peak MiB of the process |")
    print("|---|---|---|---|---|")
    for registered, row in rows.items():
        print(
            f"| {registered:,} | {row['round_ms']:.1f} | {row['fastest_round_ms']:.1f} | {row['configure_ms']:.1f} | "
            f"{row['peak_mib']:.0f} |"
        )
    bytes_each = 2**20 * (many["peak_mib"] - few["peak_mib"]) / (MANY - FEW)
    ratio = many["round_ms"] / few["round_ms"]
    fastest = many["fastest_round_ms"] / few["fastest_round_ms"]
    print(f"round time {ratio:.2f}x (fastest rounds {fastest:.2f}x), {bytes_each:.0f} bytes a registered client")
    return {"rows": rows, "ratio": ratio, "ratio_of_fastest": fastest, "bytes_a_client": bytes_each}


def partitions(repeats: int) -> dict[str, Any]:
    """Time every partitioner on 1,000,000 clients."""
    runs = [measure("partitions", MANY) for _ in range(repeats)]
    names = list(runs[0])
    best = {name: {key: min(run[name][key] for run in runs) for key in runs[0][name]} for name in names}
    print(f"\n| partition of {4 * MANY:,} examples over {MANY:,} clients | seconds | CPU seconds |")
    print("|---|---|---|")
    for name, row in best.items():
        print(f"| {name} | {row['seconds']:.2f} | {row['cpu_seconds']:.2f} |")
    return best


def models(repeats: int) -> dict[str, Any]:
    """Weigh what moves and what is held for models of 25 and 100 million parameters, inline and on 2 workers."""
    found: dict[str, Any] = {}
    print(
        "\n| parameters | clients' rule | strategy | engine | moved / round | this process | a worker | "
        "all, shared memory included | s / round |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    bits: dict[tuple[int, str, str], str] = {}
    for workers in (0, 2):
        engine = f"Ray, {workers} workers" if workers else "inline"
        base = measure("models", 0, workers, COHORT)  # the same with a model of 0.04 million parameters
        for layers, (rule, server) in product(LAYERS, LARGE_RUNS):
            row = measure("models", layers, workers, COHORT, rule, server)
            size = row["model_bytes"]
            if bits.setdefault((layers, rule, server), row["bits"]) != row["bits"]:
                raise SystemExit(f"{layers} layers, {rule}, {server}: the engines give different models")
            held = {key: (row[key] - base[key]) / size for key in ("driver", "worker", "total")}
            found[f"{size // 4:,} {rule} {server} {engine}"] = {
                "moved": row["moved_in_models"],
                **held,
                "seconds": row["seconds"],
            }
            moved = f"{row['moved_in_models']:.2f}" if workers else "0"
            worker = f"{held['worker']:.1f}" if workers else "-"
            print(
                f"| {size / 4e6:.0f}M | {rule} | {server} | {engine} | {moved} | {held['driver']:.1f} | {worker} | "
                f"{held['total']:.1f} | {row['seconds']:.1f} |",
                flush=True,
            )
    print(f"in sizes of the model; {COHORT} clients a round; memory beyond that of a tiny model; the same bits inline")
    return found


def worker(repeats: int) -> dict[str, Any]:
    """Weigh what a worker holds of a large model beside what it is sent, by its clients' rule and method."""
    found: dict[str, Any] = {}
    print("\n| parameters | clients' rule | method | a worker, in models | s for 8 clients of 2 steps |")
    print("|---|---|---|---|---|")
    base = measure("worker", 0, "sgd")["worker"]
    cases = (("sgd", "local_sgd"), ("heavy_ball", "local_sgd"), ("heavy_ball", "fedprox"), ("adam", "local_sgd"))
    for layers, (rule, method) in product(LAYERS, cases):
        row = measure("worker", layers, rule, method)
        held = (row["worker"] - base) / row["model_bytes"]
        found[f"{row['model_bytes'] // 4:,} {rule} {method}"] = {"held": held, "seconds": row["seconds"]}
        print(
            f"| {row['model_bytes'] / 4e6:.0f}M | {rule} | {method} | {held:.2f} | {row['seconds']:.1f} |", flush=True
        )
    return found


def workers(repeats: int) -> dict[str, Any]:
    """Compare 1 and 2 workers on the same clients (strong scaling) and on twice as many (weak scaling)."""
    cases = {"1 worker, 64 clients": (1, 64), "2 workers, 64 clients": (2, 64), "2 workers, 128 clients": (2, 128)}
    found: dict[str, Any] = {}
    print("\n| model | strong: time of 1 / time of 2 workers | weak: time of 1 / time of 2 with twice the clients |")
    print("|---|---|---|")
    for model in ("mlp", "cnn"):
        seconds: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(repeats):
            for case, (count, clients) in cases.items():
                seconds[case] += measure("workers", count, clients, model, 12 if model == "mlp" else 6)["seconds"]
        one, two, double = (statistics.median(values) for values in seconds.values())
        found[model] = {"seconds": seconds, "strong": one / two, "weak": one / double}
        print(f"| {model} | {one / two:.2f} | {one / double:.2f} |", flush=True)
    return found


def rounds(repeats: int) -> dict[str, Any]:
    """Watch the memory of 1,000 rounds: bytes that it grows by a round, after the first 200."""
    found: dict[str, Any] = {}
    print("\n| engine | process | MiB after 200 rounds | after 1,000 | bytes a round (least squares) |")
    print("|---|---|---|---|---|")
    for count, name in ((0, "inline"), (2, "Ray, 2 workers")):
        families = [measure("workers", count, 20, "mlp", ROUNDS)["memory"] for _ in range(repeats)]
        for position, process in enumerate(("the command", "first worker", "second worker")[: count + 1]):
            runs = [family[position] for family in families]
            step = ROUNDS // len(runs[0])
            at = [step * (i + 1) for i in range(len(runs[0]))]
            late = [i for i, r in enumerate(at) if r >= ROUNDS // 5]
            slopes = [statistics.linear_regression([at[i] for i in late], [run[i] for i in late]).slope for run in runs]
            found[f"{name}, {process}"] = {"memory": runs, "bytes_a_round": slopes}
            first, last = (statistics.median(run[i] for run in runs) / 2**20 for i in (late[0], late[-1]))
            print(f"| {name} | {process} | {first:.2f} | {last:.2f} | {statistics.median(slopes):.0f} |", flush=True)
    return found


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "clients": clients,
    "partitions": partitions,
    "models": models,
    "worker": worker,
    "workers": workers,
    "rounds": rounds,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for part, function in PARTS.items():
        text = (function.__doc__ or "").splitlines()[0].rstrip(".")
        parser.add_argument(f"--{part}", action="append_const", const=part, dest="parts", help=text.lower())
    parser.add_argument("--repeats", type=int, default=1, help="runs of each process")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args(arguments)
    found = {part: PARTS[part](options.repeats) for part in options.parts or PARTS}
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
