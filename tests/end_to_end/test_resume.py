"""Stopping and going on gives the bits of a run that never stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from flwr.serverapp import strategy as stock

import fedmomentum as fm
from fedmomentum.errors import UserError
from tests.end_to_end.tiny import same_models, write

KEEPS = {"optimizer": {"name": "heavy_ball", "lr": 0.05}, "batch_size": 20, "state": "keep"}
ADAM = {"name": "fedadam", "eta": 0.01}


class StopAt:
    """A listener that stops the run after a round, as Ctrl-C would."""

    def __init__(self, round):
        self.round = round

    def start(self, event):
        pass

    def round_end(self, event):
        if event.round == self.round:
            os.kill(os.getpid(), signal.SIGINT)

    def end(self, event):
        pass


def rounds_of(folder):
    return [json.loads(line)["round"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


PRIVATE = {"name": "fedavgm", "server_momentum": 0.5, "privacy": {"clip": 0.1, "noise_multiplier": 1.0}}
FLOWERS = {"name": "flwr.serverapp.strategy:FedAvgM", "options": {"server_momentum": 0.9}}


@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "fedavg"},
        {"name": "fedavgm", "form": "nesterov"},
        ADAM,
        {"name": "fedyogi", "eta": 0.01},
        PRIVATE,
        FLOWERS,
    ],
    ids=["fedavg", "nesterov", "fedadam", "fedyogi", "private", "flower"],
)
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, strategy):
    who = {"participation": {"name": "bernoulli", "probability": 0.3}} if strategy is PRIVATE else {}
    path = write(tmp_path, rounds=6, strategy=strategy, client=KEEPS, **who)
    whole = fm.run(path, out=tmp_path / "whole")
    stopped = fm.run(path, out=tmp_path / "runs", listeners=[StopAt(3)])
    assert stopped.status == "interrupted" and rounds_of(stopped.folder) == [0, 1, 2, 3]
    assert json.loads((stopped.folder / "status.json").read_text())["status"] == "interrupted"
    resumed = fm.resume(stopped.folder)
    assert resumed.status == "finished" and rounds_of(stopped.folder) == list(range(7))
    assert same_models(whole.folder, stopped.folder)
    clocks = {"seconds", "elapsed"}
    for a, b in zip(whole.metrics, resumed.metrics, strict=True):
        assert {k: v for k, v in a.items() if k not in clocks and "seconds" not in k} == {
            k: v for k, v in b.items() if k not in clocks and "seconds" not in k
        }


def test_a_finished_run_can_be_extended(tmp_path):
    whole = fm.run(write(tmp_path, rounds=6, strategy=ADAM), out=tmp_path / "whole")
    short = fm.run(write(tmp_path, rounds=2, strategy=ADAM), out=tmp_path / "runs")
    fm.resume(short.folder, overrides=["rounds=6"])
    assert same_models(whole.folder, short.folder)
    assert fm.resume(short.folder).status == "finished"  # nothing left to do


def test_arms_go_on_each_from_where_it_was(tmp_path):
    arms = {"a": {"strategy": {"name": "fedavg"}}, "b": {}}
    path = write(tmp_path, arms=arms)
    whole = fm.run(path, out=tmp_path / "whole")

    class StopSecond(StopAt):
        def round_end(self, event):
            if event.arm == "b":
                super().round_end(event)

    stopped = fm.run(path, out=tmp_path / "runs", listeners=[StopSecond(2)])
    assert stopped.status == "interrupted"
    resumed = fm.resume(stopped.folder)
    for arm in arms:
        assert same_models(whole.folder / "arms" / arm, stopped.folder / "arms" / arm)
        assert [row["round"] for row in resumed.arms[arm]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("client.optimizer.lr=0.2", "client.optimizer.lr was 0.05, now 0.2"),
        ("seed=4", "seed"),
        ("engine.block_size=3", "engine.block_size"),
        ("strategy.server_momentum=0.1", "server_momentum"),
    ],
)
def test_another_scenario_is_refused_with_the_reason(tmp_path, override, names):
    run = fm.run(write(tmp_path), out=tmp_path / "runs")
    before = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=names):
        fm.resume(run.folder, overrides=[override])
    assert before == {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    run = fm.run(write(tmp_path), out=tmp_path / "runs")
    for state in run.folder.glob("checkpoints/*/state.json"):
        state.write_text(state.read_text().replace('"format": 1', '"format": 77'))
    with pytest.raises(UserError, match="another version"):
        fm.resume(run.folder, overrides=["rounds=9"])


def test_a_run_that_is_running_is_left_alone(tmp_path):
    run = fm.run(write(tmp_path), out=tmp_path / "runs")
    status = json.loads((run.folder / "status.json").read_text())
    (run.folder / "status.json").write_text(json.dumps(status | {"status": "running", "pid": os.getppid()}))
    with pytest.raises(UserError, match=rf"process {os.getppid()} is running it"):
        fm.resume(run.folder, overrides=["rounds=9"])


class Unknown(stock.FedAvg):
    """Holds something that nobody can save."""

    def __init__(self):
        super().__init__()
        self.held = object()


def test_a_strategy_whose_state_is_unknown_runs_but_cannot_go_on(tmp_path):
    strategy = {"name": "tests.end_to_end.test_resume:Unknown"}
    result = fm.run(write(tmp_path, strategy=strategy, checkpoint={"every": 1}), out=tmp_path / "runs")
    assert result.status == "finished"
    assert "no checkpoints" in result.warnings[0]


KILLS = 20 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 3


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    path = write(tmp_path, rounds=300, strategy=ADAM, client=KEEPS, checkpoint={"every": 1})
    whole = fm.run(path, out=tmp_path / "whole")
    rng = random.Random(0)
    command = [sys.executable, "-m", "fedmomentum.cli", "run", str(path), "--out", str(tmp_path / "runs"), "--quiet"]
    for kill in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begun = _rounds_done(tmp_path / "runs")
        while process.poll() is None and _rounds_done(tmp_path / "runs") <= begun:
            time.sleep(0.02)
        time.sleep(rng.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        (folder,) = (tmp_path / "runs/tiny").iterdir()
        if kill == 0:
            with (folder / "metrics.jsonl").open("a") as file:
                file.write('{"round": 99')  # a line that the kill tore
        command = [sys.executable, "-m", "fedmomentum.cli", "resume", str(folder), "--quiet"]
    fm.resume(folder)
    assert same_models(whole.folder, folder)
    assert rounds_of(folder) == list(range(301))


def _rounds_done(runs):
    return max((len(f.read_bytes().splitlines()) for f in runs.glob("tiny/*/metrics.jsonl")), default=0)
