"""Milliseconds a client and round on workload W, ours beside Flower's simulation and a bare torch loop, in one run.

``python -m benchmarks.engine [--models lin mlp cnn] [--repeats 1] [--json FILE]``. Every column runs in a process of its own; columns
alternate within a repeat so that drift of the machine hits all of them. Reported: the median over rounds (the first two left
out) and repeats; the ratio to the bare loop; the time from starting the process to the end of round 1; the peak of
proportional memory (PSS) over all processes of the column.
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

WARM_UP = 2
"""Rounds left out of the medians: imports, first allocations."""


def measure(column: str, model: str, rounds: int) -> dict[str, float]:
    """Run one column in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "benchmarks.columns", column, model, str(rounds)]
    began = time.time()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    peak = _Peak(process.pid)
    out, err = process.communicate()
    memory = peak.stop()
    if process.returncode:
        raise SystemExit(f"{column} / {model} failed:\n{err[-3000:]}")
    ends = json.loads(out.strip().splitlines()[-1])["ends"]
    seconds = [b - a for a, b in zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)]
    return {
        "ms_per_client": 1e3 * statistics.median(seconds) / CLIENTS,
        "first_round_s": ends[0] - began,
        "total_s": time.time() - began,
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
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), choices=list(COLUMNS), metavar="COLUMN")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args(arguments)
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for repeat in range(options.repeats):
        for model in options.models:
            for column in options.columns:
                print(f"[{repeat + 1}/{options.repeats}] {model}: {column} ...", file=sys.stderr, flush=True)
                found.setdefault(model, {}).setdefault(column, []).append(measure(column, model, ROUNDS[model]))
    rows = {
        model: {
            column: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for column, runs in columns.items()
        }
        for model, columns in found.items()
    }
    _print(rows)
    if options.json:
        machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
        options.json.write_text(json.dumps({"machine": machine, "median": rows, "runs": found}, indent=2) + "\n")
    return 0


def _print(rows: dict[str, dict[str, dict[str, float]]]) -> None:
    print("| model | column | ms / client | / bare loop | Flower / this | first round s | total s | peak MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for model, columns in rows.items():
        bare = columns.get("bare torch loop, 1 thread", {}).get("ms_per_client", float("nan"))
        flower = columns.get("Flower simulation", {}).get("ms_per_client", float("nan"))
        for column, row in columns.items():
            each = row["ms_per_client"]
            print(
                f"| {model} | {column} | {each:.3f} | {each / bare:.2f} | {flower / each:.1f}x | "
                f"{row['first_round_s']:.1f} | {row['total_s']:.1f} | {row['peak_mib']:.0f} |"
            )


if __name__ == "__main__":
    sys.exit(main())
