"""Each tracker for real, read back with the tracker's own tools; without its package a test is skipped."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedmomentum.events import End, RoundEnd, Start
from fedmomentum.runs import RunFolder
from fedmomentum.trackers import make_tracker

RESOLVED = {
    "name": "quick",
    "seed": 3,
    "rounds": 4,
    "client": {"optimizer": {"name": "sgd", "lr": 1e-5}},
    "arms": {"FedAvg": {"strategy": {"name": "fedavg"}}, "M|x": {"strategy": {"name": "fedavgm"}}},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return RunFolder.create(
        tmp_path / "runs", "quick", scenario_text="name: quick\n", resolved=RESOLVED, hash="0" * 64
    ).path


def play(tracker: Any, *, resumed: bool = True) -> None:
    """Two arms of three rounds, the first of them interrupted and gone on with; every number is a different one."""
    for arm in ("FedAvg", "M|x"):
        tracker.start(Start("quick", 4, arm=arm, facts={"parameters": 650}))
        for n in range(3):
            metrics = {"round": n, "accuracy": n / 8, "loss": math.nan if n == 2 else 2.0**-n}
            clients = {"client": [1.0, 2.0], "steps": [4.0, math.nan]} if n else {}
            tracker.round_end(RoundEnd(n, 4, metrics, clients, seconds_by_phase={"train": 0.25}, arm=arm))
        tracker.end(End("interrupted", 2, arm, "stopped by Ctrl-C"))
        if resumed and arm == "FedAvg":
            tracker.start(Start("quick", 4, 3, arm=arm))
            tracker.round_end(RoundEnd(3, 4, {"round": 3, "accuracy": 0.875}, arm=arm))
            tracker.end(End("finished", 4, arm))
    assert tracker.failure is None


def test_tensorboard(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    play(make_tracker("tensorboard", folder))
    read = EventAccumulator(str(folder / "tensorboard" / "FedAvg"), {"histograms": 0}).Reload()
    assert [(s.step, s.value) for s in read.Scalars("accuracy")] == [(0, 0), (1, 0.125), (2, 0.25), (3, 0.875)]
    assert math.isnan(read.Scalars("loss")[2].value)
    assert sorted(read.Tags()["scalars"]) == ["accuracy", "loss", "seconds_train"]
    assert [(h.step, h.histogram_value.num, h.histogram_value.sum) for h in read.Histograms("clients/steps")] == [
        (1, 1, 4), (2, 1, 4),
    ]  # fmt: skip
    (text,) = read.Tensors("settings/text_summary")[0].tensor_proto.string_val
    assert "| client.optimizer.lr | 1e-05 |" in text.decode() and "| strategy.name | fedavg |" in text.decode()
    assert (folder / "tensorboard" / "M-x").is_dir()


def test_tensorboard_hides_rounds_that_are_done_again(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = make_tracker("tensorboard", folder, histograms=False)
    for first in (1, 2):
        tracker.start(Start("quick", 3, first))
        for n in range(first, 4):
            tracker.round_end(RoundEnd(n, 3, {"accuracy": n / 8 + first}))
        tracker.end(End("finished", 3))
    read = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [(s.step, s.value) for s in read.Scalars("accuracy")] == [(1, 1.125), (2, 2.25), (3, 2.375)]


def test_mlflow(folder: Path) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    play(make_tracker("mlflow", folder))
    client = MlflowClient(f"sqlite:///{(folder.parents[1] / 'mlflow.db').as_posix()}")
    experiment = client.get_experiment_by_name("quick")
    assert experiment is not None
    runs = {run.data.tags["fedmomentum.arm"]: run for run in client.search_runs([experiment.experiment_id])}
    assert {arm: run.info.status for arm, run in runs.items()} == {"FedAvg": "FINISHED", "M|x": "KILLED"}
    run = runs["FedAvg"]
    history = client.get_metric_history(run.info.run_id, "accuracy")
    assert [(m.step, m.value) for m in history] == [(0, 0), (1, 0.125), (2, 0.25), (3, 0.875)]
    assert math.isnan(client.get_metric_history(run.info.run_id, "loss")[2].value)
    expected = {"seed": "3", "client.optimizer.lr": "1e-05", "strategy.name": "fedavg", "parameters": "650"}
    assert expected.items() <= run.data.params.items()
    assert "fedmomentum.message" not in run.data.tags
    assert runs["M|x"].data.tags["fedmomentum.message"] == "stopped by Ctrl-C"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["resolved.yaml", "scenario.yaml"]


def test_wandb_offline(folder: Path) -> None:
    pytest.importorskip("wandb")
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_trackers import play
from fedmomentum.trackers import make_tracker
tracker = make_tracker("wandb", Path({str(folder)!r}))
tracker.round_end = lambda event, tell=tracker.round_end: (tell(event), print("hello"))
play(tracker, resumed=False)
"""
    env = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("hello\n" * 6, "")
    assert not list(folder.rglob("output.log")), "what the run prints is not the tracker's"
    kept = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len(kept) == 2
    for file in kept:
        data = file.read_bytes()
        for words in (b"accuracy", b"seconds_train", b"0.125", b"client.optimizer.lr"):
            assert words in data
    assert {arm for arm in (b"fedavgm", b"fedavg\"") if any(arm in file.read_bytes() for file in kept)} == {
        b"fedavgm", b'fedavg"',
    }  # fmt: skip


def test_a_tracker_that_cannot_write_does_not_break_the_run(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    (folder / "blocked").write_text("")
    tracker = make_tracker("tensorboard", folder, directory=str(folder / "blocked"))
    for event in (Start("quick", 1), Start("quick", 1)):
        tracker.start(event)
    tracker.round_end(RoundEnd(1, 1, {"accuracy": 0.5}))
    tracker.end(End("finished", 1))
    assert tracker.failure is not None
