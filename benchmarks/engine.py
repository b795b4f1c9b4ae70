"""Milliseconds a client and round on workload W, ours beside other frameworks and a bare torch loop, in one run.

``python -m benchmarks.engine [--models lin mlp cnn] [--columns ...] [--repeats 1] [--json FILE]``. The columns of other
frameworks but Flower need ``make bench-peers`` once; without it they are left out, and the table says so. Every column
runs in a process of its own; columns alternate within a repeat so that drift of the machine hits all of them. Reported:
the median over rounds (the first two left out) and repeats; ratios to the bare loop, to Flower and to the fastest other
framework; the time from starting the process to the end of round 1, to the moment when all Ray actors of ours were at
work (the process itself trains until they are: rounds that ended before are left out of the median too), and to the end
of the last of so many rounds as the workload has (12, 12 and 5); the peak of proportional memory (PSS) over all
processes of the column.

Columns whose rounds take milliseconds run more of them (120 of lin and 48 of mlp): twelve would be over in a tenth of a
second, in which caches fill and what has just started goes on starting. The end of the last round stays the twelfth's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.columns import COLUMNS
from benchmarks.workload import CLIENTS, ROUNDS

SLOW = ("bare torch loop, 1 thread", "Flower simulation")
"""Columns that run as many rounds as the workload has; the others ``MANY`` for a small model."""
MANY = {"lin": 120, "mlp": 48}
WARM_UP = 2
"""Rounds left out of the medians: imports, first allocations, compilation."""

PEERS = {
    "pfl-research, 2 processes": (
        *("pfl", "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "benchmarks.peers.pfl_processes"),
    ),
    "FedJAX, jit": ("fedjax", "-m", "benchmarks.peers.fedjax_jit"),
    "JAX by hand, jit(vmap(scan))": ("jax", "-m", "benchmarks.peers.jax_vmap"),
}
"""Columns of other frameworks: environment, and the arguments of its Python before model and rounds."""


def command(column: str, model: str, rounds: int) -> list[str] | None:
    """Give the command of a column, or None where it is a peer that is not set up."""
    if column not in PEERS:
        return [sys.executable, "-m", "benchmarks.columns", column, model, str(rounds)]
    environment, *program = PEERS[column]
    python = Path(__file__).parents[1] / ".peers" / environment / "bin" / "python"
    return [str(python), *program, model, str(rounds)] if python.exists() else None


def measure(column: str, model: str) -> dict[str, float] | None:
    """Run one column in a process of its own; None where it is a peer that is not set up."""
    rounds = ROUNDS[model] if column in SLOW else MANY.get(model, ROUNDS[model])
    words = command(column, model, rounds)
    if words is None:
        return None
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    began = time.time()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    peak = _Peak(process.pid)
    out, err = process.communicate()
    memory = peak.stop()
    if process.returncode:
        raise SystemExit(f"{column} / {model} failed:\n{err[-3000:]}")
    answer = json.loads(out.strip().splitlines()[-1])
    ends, at_work = answer["ends"], answer.get("at_work")
    first = WARM_UP if at_work is None else max(WARM_UP, 2 + sum(end <= at_work for end in ends))
    seconds = [b - a for a, b in zip(ends[first - 1 :], ends[first:], strict=False)]
    return {
        "ms_per_client": 1e3 * statistics.median(seconds) / CLIENTS,
        "first_round_s": ends[0] - began,
        **({} if at_work is None else {"at_work_s": at_work - began}),
        "last_round_s": ends[ROUNDS[model] - 1] - began,
        "peak_mib": memory,
    }


class _Peak:
    """Samples the memory of a process and all its descendants."""

    def __init__(self, pid: int) -> None:
        self._root, self._peak, self._done = psutil.Process(pid), 0.0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._done.wait(1.0):
            try:
                family = [self._root, *self._root.children(recursive=True)]
                used = 0.0
                for process in family:
                    try:
                        used += process.memory_full_info().pss
                    except psutil.Error:
                        continue
                self._peak = max(self._peak, used / 2**20)
            except psutil.Error:
                return

    def stop(self) -> float:
        self._done.set()
        self._thread.join()
        return self._peak


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(ROUNDS), choices=list(ROUNDS))
    parser.add_argument(
        "--columns", nargs="+", default=[*COLUMNS, *PEERS], choices=[*COLUMNS, *PEERS], metavar="COLUMN"
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args(arguments)
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for repeat in range(options.repeats):
        for model in options.models:
            for column in options.columns:
                if column.endswith(("bf16", "no compiled code")[model == "cnn"]):
                    continue  # dense networks stay in float32, and convolutions have no compiled code
                print(f"[{repeat + 1}/{options.repeats}] {model}: {column} ...", file=sys.stderr, flush=True)
                figures = measure(column, model)
                if figures is not None:
                    found.setdefault(model, {}).setdefault(column, []).append(figures)
    missing = [column for column in options.columns if command(column, "lin", 1) is None]
    rows = {
        model: {
            column: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            for column, runs in columns.items()
        }
        for model, columns in found.items()
    }
    _print(rows)
    if missing:
        print(f"\nNot set up, and left out: {'; '.join(missing)}. Run 'make bench-peers' first.")
    if options.json:
        machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
        options.json.write_text(json.dumps({"machine": machine, "median": rows, "runs": found}, indent=2) + "\n")
    return 0


def _print(rows: dict[str, dict[str, dict[str, float]]]) -> None:
    heads = "model", "column", "ms / client", "/ bare loop", "Flower / this", "best peer / this"
    print("| " + " | ".join([*heads, "first round s", "all actors at work s", "last round s", "peak MiB"]) + " |")
    print("|" + 10 * "---|")
    for model, columns in rows.items():
        bare = columns.get("bare torch loop, 1 thread", {}).get("ms_per_client", float("nan"))
        flower = columns.get("Flower simulation", {}).get("ms_per_client", float("nan"))
        best = min((row["ms_per_client"] for name, row in columns.items() if name in PEERS), default=float("nan"))
        for column, row in columns.items():
            each = row["ms_per_client"]
            there = f"{row['at_work_s']:.1f}" if "at_work_s" in row else ""
            print(
                f"| {model} | {column} | {each:.3f} | {each / bare:.2f} | {flower / each:.1f}x | {best / each:.2f}x | "
                f"{row['first_round_s']:.1f} | {there} | {row['last_round_s']:.1f} | "
                f"{row['peak_mib']:.0f} |"
            )


if __name__ == "__main__":
    sys.exit(main())
