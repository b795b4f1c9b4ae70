"""A run of many rounds holds on to nothing: memory and file handles stay where they were, and every row is there."""

from __future__ import annotations

import psutil
import pytest

import fedmomentum as fm
from fedmomentum.events import End, RoundEnd, Start
from tests.end_to_end.tiny import write

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
    gauge = Gauge()
    result = fm.run(path, out=tmp_path / "runs", listeners=[gauge])
    assert result.status == "finished" and list(gauge.memory) == list(range(0, ROUNDS + 1, 100))
    assert gauge.files[ROUNDS] <= gauge.files[SETTLED]
    grown = (gauge.memory[ROUNDS] - gauge.memory[SETTLED]) / (ROUNDS - SETTLED)
    assert grown < MODEL, f"{grown:.0f} bytes a round: a row is half of that, and one model kept a round would be more"
    run = fm.load_run(result.folder)
    assert [row["round"] for row in run.metrics] == list(range(ROUNDS + 1))
    assert len(run.clients) == 2 * ROUNDS
    for kept, written in zip(result.metrics, run.metrics, strict=True):
        assert all(written[key] == value for key, value in kept.items() if key != "arm" and value == value)
    assert len(list(result.folder.glob("checkpoints/round-*"))) == 2
