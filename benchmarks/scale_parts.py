"""The measurements of the scale benchmark; each runs in a process of its own and prints JSON on its last line."""

from __future__ import annotations

import json
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


def peak() -> int:
    """Give the largest resident size of this process so far, in bytes."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


PARTS: dict[str, Callable[..., Any]] = {"make-data": make_data, "clients": clients, "partitions": partitions}


def main(part: str, *arguments: str) -> None:
    """Run one part and print what it found."""
    found = PARTS[part](*(int(a) if a.isdigit() else a for a in arguments))
    print("\n" + json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
