"""Sweeps: points that equal runs, are skipped when done, and go on when stopped."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import fedmomentum as fm
from fedmomentum.cli import main
from fedmomentum.errors import UserError
from fedmomentum.sweeping import sweep_overrides
from tests.end_to_end.tiny import same_models, write

LR = {"client.optimizer.lr": [0.01, 0.1]}
CLOCKS = ("seconds", "elapsed")


def without_clocks(rows):
    return [{k: v for k, v in row.items() if not k.startswith(CLOCKS)} for row in rows]


def points(result):
    """Give the run folder of each point by its name."""
    return {name: run.path for name, run in fm.load_run(result.folder).arms.items()}


def same_points(a, b):
    left, right = points(a), points(b)
    return left.keys() == right.keys() and all(same_models(left[name], right[name]) for name in left)


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_point_has_the_bits_of_a_run_whatever_the_number_of_jobs(tmp_path, jobs):
    path = write(tmp_path, rounds=3)
    events = []
    result = fm.sweep(path, grid=LR, seeds=2, out=tmp_path / "runs", jobs=jobs, on_point=events.append)
    assert result.status == "finished"
    assert [(event.done, event.total) for event in events] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for lr in LR["client.optimizer.lr"]:
        for seed in (0, 1):
            alone = fm.run(path, overrides=[f"client.optimizer.lr={lr}", f"seed={seed}"], out=tmp_path / "alone")
            name = f"lr={lr},seed={seed}"
            assert same_models(points(result)[name], alone.folder)
            assert without_clocks(result.arms[name]) == without_clocks(alone.arms[""])
            assert fm.load_run(points(result)[name]).status["hash"] == fm.load_run(alone.folder).status["hash"]
    models = [folder / "model.safetensors" for folder in points(result).values()]
    assert len({model.read_bytes() for model in models}) == 4


def test_a_sweep_leaves_a_folder_that_reads_as_a_run(tmp_path):
    claims = [{"metric": "accuracy", "arm": "lr=0.1", "ge": 0.99}]
    path = write(tmp_path, rounds=2, sweep={"grid": LR, "seeds": 2}, expect=claims)
    result = fm.sweep(path, out=tmp_path / "runs", jobs=2)
    assert [claim.ok for claim in result.expectations] == [False]
    run = fm.load_run(result.folder)
    assert run.status["status"] == "finished" and run.series.keys() == result.arms.keys()
    assert [picture.stem for picture in run.pictures] == ["accuracy", "loss"]
    with (result.folder / "points.csv").open() as file:
        table = {row["point"]: row for row in csv.DictReader(file)}
    assert table.keys() == result.arms.keys()
    for name, rows in result.arms.items():
        row = table[name]
        assert name == f"lr={row['client.optimizer.lr']},seed={row['seed']}"
        assert float(row["last_accuracy"]) == rows[-1]["accuracy"]
        assert float(row["best_loss"]) == min(r["loss"] for r in rows)
        assert float(row["best_accuracy"]) == max(r["accuracy"] for r in rows)


def test_the_same_command_skips_what_is_done_and_does_what_is_not(tmp_path):
    path = write(tmp_path, rounds=2)
    first = fm.sweep(path, grid=LR, out=tmp_path / "runs")
    before = {p: p.stat().st_mtime_ns for p in first.folder.glob("points/*/*")}
    events = []
    again = fm.sweep(path, grid=LR, out=tmp_path / "runs", on_point=events.append)
    assert again.folder == first.folder and events == []
    assert without_clocks(again.metrics) == without_clocks(first.metrics)
    lost = points(first)["lr=0.1"]
    (lost / "status.json").unlink()  # killed before it was a run
    fm.sweep(path, grid=LR, out=tmp_path / "runs", on_point=events.append)
    assert [event.name for event in events] == ["lr=0.1"]
    after = {p: p.stat().st_mtime_ns for p in first.folder.glob("points/*/*")}
    assert {p.parent for p in before if before[p] != after[p]} == {lost}


def test_flags_say_what_a_file_says(tmp_path):
    out = tmp_path / "runs"
    grid = {"client.optimizer.lr": [0.01, 0.1]}
    zipped = {"seed": [1, 2], "strategy.server_momentum": [0.1, 0.2]}
    write(tmp_path, rounds=1, sweep={"grid": grid, "zip": zipped})
    flags = ["--grid", "client.optimizer.lr=0.01,0.1", "--zip", "seed=1,2", "--zip", "strategy.server_momentum=0.1,0.2"]
    inner = fm.sweep(tmp_path / "scenario.yaml", out=out)
    assert main(["sweep", str(write(tmp_path, rounds=1)), *flags, "--out", str(out), "--quiet"]) == 0
    assert list((out / "tiny").iterdir()) == [inner.folder]
    assert list(inner.arms) == [
        f"lr={lr:g},seed={seed},server_momentum={seed / 10:g}" for lr in (0.01, 0.1) for seed in (1, 2)
    ]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--grid", "client.optimizer.lr"], "expected PATH=V1,V2"),
        (["--grid", "client.optimizer.lr="], "expected PATH=V1,V2"),
        (["--grid", "client.optimiser.lr=1"], "optimiser"),
        (["--grid", "client.optimizer.lr=1,fast"], "fast"),
        (["--grid", "rounds=1,2", "--zip", "rounds=1,2"], "grid as well"),
        (["--zip", "rounds=1,2", "--zip", "seed=1"], "equally long"),
        (["--grid", "seed=1,2", "--seeds", "2"], "seed"),
        (["--grid", "a]: {[=1"], "a]: {["),
        (["--grid", "rounds=1]},x: {y: [2"], "rounds"),
    ],
)
def test_a_flag_that_is_wrong_is_named(tmp_path, capsys, flags, says):
    assert main(["sweep", str(write(tmp_path)), *flags, "--out", str(tmp_path / "runs")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_values_of_a_flag_are_yaml():
    override, without_claims = sweep_overrides(["data.partition={name: iid, clients: 3},{name: shards}"])
    assert override == 'sweep={grid: {"data.partition": [{name: iid, clients: 3},{name: shards}]}}'
    assert without_claims == "expect=[]"  # they are about arms that the grid takes apart


def test_a_point_that_cannot_run_shows_before_any_does(tmp_path):
    with pytest.raises(UserError, match=r"clients=5000: .*5000 clients"):
        fm.sweep(write(tmp_path), grid={"data.partition.clients": [12, 5000]}, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_one_process_at_a_time(tmp_path):
    path = write(tmp_path, rounds=1)
    result = fm.sweep(path, grid=LR, out=tmp_path / "runs")
    status = json.loads((result.folder / "status.json").read_text())
    (result.folder / "status.json").write_text(
        json.dumps(status | {"status": "running", "pid": os.getppid(), "pid_began": None})
    )
    (points(result)["lr=0.1"] / "status.json").unlink()
    with pytest.raises(UserError, match=rf"process {os.getppid()} is running it"):
        fm.sweep(path, grid=LR, out=tmp_path / "runs")


@pytest.mark.slow
def test_a_sweep_can_be_extended(tmp_path):
    whole = fm.sweep(write(tmp_path, rounds=4), grid=LR, out=tmp_path / "whole")
    path = write(tmp_path, rounds=2)
    short = fm.sweep(path, grid=LR, out=tmp_path / "runs")
    longer = fm.resume(short.folder, overrides=["rounds=4"])
    assert longer.status == "finished" and same_points(whole, short)
    assert without_clocks(longer.metrics) == without_clocks(whole.metrics)
    with pytest.raises(UserError, match=r"client\.batch_size was 20, now 10"):
        fm.resume(short.folder, overrides=["client.batch_size=10"])
    with pytest.raises(UserError, match="gone on with other settings"):
        fm.sweep(path, grid=LR, out=tmp_path / "runs")


def test_a_failed_point_costs_no_other(tmp_path):
    grid = {"participation.dropout": [0.0, 0.999]}
    strategy = {"name": "fedavg", "quorum": 5, "on_missed_quorum": "stop"}
    result = fm.sweep(write(tmp_path, rounds=2, strategy=strategy), grid=grid, out=tmp_path / "runs")
    assert result.status == "failed"
    assert [run.status["status"] for run in fm.load_run(result.folder).arms.values()] == ["finished", "failed"]
    assert result.warnings[0].startswith("dropout=0.999: stopped: ")


class When(threading.Thread):
    """Does something once some point of a sweep has come so far."""

    def __init__(self, out, rows, action):
        super().__init__(daemon=True)
        self.out, self.rows, self.action = out, rows, action
        self.start()

    def run(self):
        while True:
            for file in self.out.glob("*/*/points/*/metrics.jsonl"):
                if file.read_bytes().count(b"\n") >= self.rows:
                    return self.action(file.parent)
            time.sleep(0.01)


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_from_checkpoints(tmp_path):
    path = write(tmp_path, rounds=100)
    whole = fm.sweep(path, grid=LR, out=tmp_path / "whole", jobs=2)
    When(tmp_path / "runs", 20, lambda point: os.kill(os.getpid(), signal.SIGINT))
    stopped = fm.sweep(path, grid=LR, out=tmp_path / "runs")
    assert stopped.status == "interrupted"
    begun, never = points(stopped).values()
    assert 20 <= fm.load_run(begun).status["rounds_done"] < 100 and not never.exists()
    finished = fm.sweep(path, grid=LR, out=tmp_path / "runs", jobs=2)
    assert finished.status == "finished" and finished.folder == stopped.folder
    assert fm.load_run(begun).status["resumed"] == 1
    assert same_points(whole, finished) and without_clocks(whole.metrics) == without_clocks(finished.metrics)


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_point_alone(tmp_path):
    path = write(tmp_path, rounds=100, checkpoint={"every": 5})
    whole = fm.sweep(path, grid=LR, out=tmp_path / "whole", jobs=2)
    When(tmp_path / "runs", 20, lambda point: os.kill(fm.load_run(point).status["pid"], signal.SIGKILL))
    hurt = fm.sweep(path, grid=LR, out=tmp_path / "runs")
    assert hurt.status == "failed" and hurt.warnings == ["lr=0.01: its process was killed by signal 9"]
    assert len(hurt.arms["lr=0.1"]) == 101
    assert fm.resume(hurt.folder).status == "finished"
    assert same_points(whole, hurt)


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_and_leaves_no_process_behind(tmp_path):
    path = write(tmp_path, rounds=300, checkpoint={"every": 5})
    whole = fm.sweep(path, grid=LR, out=tmp_path / "whole", jobs=2)
    command = [sys.executable, "-m", "fedmomentum.cli", "sweep", str(path), "--grid", "client.optimizer.lr=0.01,0.1"]
    process = subprocess.Popen([*command, "--jobs", "2", "--out", str(tmp_path / "runs"), "--quiet"])
    killed = When(tmp_path / "runs", 20, lambda point: process.kill())
    process.wait()
    killed.join()
    pids = [fm.load_run(p.parent).status["pid"] for p in (tmp_path / "runs").glob("*/*/points/*/status.json")]
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pids and not any(_alive(pid) for pid in pids)
    done = fm.sweep(path, grid=LR, out=tmp_path / "runs", jobs=2)
    assert done.status == "finished" and same_points(whole, done)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.ray
@pytest.mark.slow
def test_jobs_on_one_ray_give_the_same_bits(tmp_path):
    path = write(tmp_path, rounds=2)
    inline = fm.sweep(path, grid=LR, seeds=2, out=tmp_path / "inline")
    shared = fm.sweep(path, grid=LR, seeds=2, overrides=["engine.name=ray"], out=tmp_path / "ray", jobs=2)
    assert shared.status == "finished" and same_points(inline, shared)
    facts = [run.status["facts"] for run in fm.load_run(shared.folder).arms.values()]
    assert all(fact["engine"] == "ray" for fact in facts)
