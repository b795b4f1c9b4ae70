"""A run of many rounds holds on to nothing: memory and file handles stay where they were, and every row is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import fedmomentum as fm
from fedmomentum.events import End, RoundEnd, Start
from tests.end_to_end.tiny import write

ROOT = Path(__file__).parents[2]
ROUNDS, SETTLED = 2000, 500
MODEL = 650 * 4
"""Bytes of one model (64 x 10 weights and 10 biases)."""


class Gauge:
    """Reads memory and open files of this process now and then."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.memory: dict[int, int] = {}
        self.files: dict[int, int] = {}

    def start(self, event: Start) -> None:
        pass

    def round_end(self, event: RoundEnd) -> None:
        if event.round % 100 == 0:
            self.memory[event.round] = self.process.memory_info().rss
            self.files[event.round] = self.process.num_fds()

    def end(self, event: End) -> None:
        pass


def live(path: str, runs: str) -> None:
    """Run a scenario and print what the gauge read, the run's folder, and the rows that the run gave back."""
    gauge = Gauge()
    result = fm.run(path, out=runs, listeners=[gauge])
    rows = [{key: value for key, value in row.items() if value == value} for row in result.metrics]
    told = {"status": result.status, "folder": str(result.folder), "rows": rows}
    print(json.dumps({"memory": list(gauge.memory.items()), "files": list(gauge.files.items()), **told}))


@pytest.mark.slow
def test_two_thousand_rounds(tmp_path) -> None:
    path = write(
        tmp_path,
        rounds=ROUNDS,
        data={"name": "digits", "partition": {"name": "iid", "clients": 4}},
        model={"name": "logistic"},
        client={"optimizer": {"name": "heavy_ball", "lr": 0.05}, "batch_size": 400, "state": "keep"},
        participation={"name": "uniform", "count": 2},
        checkpoint={"every": 100, "keep": 2},
    )
    # A process of its own: in this one the memory that other tests have freed, or their threads hold, moves too.
    command = [sys.executable, "-m", "tests.end_to_end.test_long_life", str(path), str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    memory, files = dict(told["memory"]), dict(told["files"])
    assert told["status"] == "finished" and list(memory) == list(range(0, ROUNDS + 1, 100))
    assert files[ROUNDS] <= files[SETTLED]
    grown = (memory[ROUNDS] - memory[SETTLED]) / (ROUNDS - SETTLED)
    assert grown < MODEL, f"{grown:.0f} bytes a round: a row is half of that, and one model kept a round would be more"
    run = fm.load_run(told["folder"])
    assert [row["round"] for row in run.metrics] == list(range(ROUNDS + 1))
    assert len(run.clients) == 2 * ROUNDS
    for kept, written in zip(told["rows"], run.metrics, strict=True):
        assert all(written[key] == value for key, value in kept.items() if key != "arm")
    assert len(list(Path(told["folder"]).glob("checkpoints/round-*"))) == 2


if __name__ == "__main__":
    live(*sys.argv[1:])
