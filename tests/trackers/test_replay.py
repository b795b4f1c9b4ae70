from __future__ import annotations

import math
from pathlib import Path

import pytest

from fedmomentum.events import End, Failure, RoundEnd, Start
from fedmomentum.runs import Recorder, RunFolder, load_run
from fedmomentum.trackers import replay


def new(out: Path) -> RunFolder:
    return RunFolder.create(out, "quick", scenario_text="", resolved={}, hash="0" * 8)


@pytest.mark.parametrize("arms", [[""], ["FedAvg", "Fed/Avg"]])
def test_a_replay_is_recorded_as_the_run_was(tmp_path: Path, arms: list[str]) -> None:
    first, second = new(tmp_path), new(tmp_path)
    recorder = Recorder(first)
    for arm in arms:
        recorder.start(Start("quick", 3, arm=arm, facts={"clients": 2}))
        for n in range(3):
            clients: dict[str, list[float]] = {"client": [4, 7], "loss": [n / 2, math.nan]} if n else {}
            failures = [Failure(9, "dropped out", "dropout")] if n == 2 else []
            recorder.round_end(RoundEnd(n, 3, {"accuracy": n / 10}, clients, failures, {"train": 0.5}, arm))
        recorder.end(End("failed", 2, arm, "the disk is full"))
    replay(load_run(first.path), Recorder(second))
    files = {file.relative_to(first.path) for file in first.path.rglob("*.jsonl")}
    assert len(files) == 3 * len(arms)
    for file in files:
        assert (second.path / file).read_bytes() == (first.path / file).read_bytes()
    for arm in arms:
        one, other = first.arm(arm).status(), second.arm(arm).status()
        for key in ("status", "rounds", "rounds_done", "facts", "message"):
            assert one[key] == other[key]


def test_a_run_that_was_killed_ends_as_interrupted(tmp_path: Path) -> None:
    folder = new(tmp_path)
    Recorder(folder).start(Start("quick", 3))
    ends: list[End] = []

    class Spy(Recorder):
        def end(self, event: End) -> None:
            ends.append(event)

    replay(load_run(folder.path), Spy(new(tmp_path)))
    assert ends == [End("interrupted", 0)]
