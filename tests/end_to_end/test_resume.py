"""Stopping and going on gives the bits of a run that never stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import secrets
import signal

import pytest
import yaml
from flwr.serverapp import strategy as stock

import fedmomentum as fm
from fedmomentum.errors import UserError
from fedmomentum.runs.checkpoint import latest_checkpoint
from tests.end_to_end.dying import live
from tests.end_to_end.tiny import same_models, write
from tests.nightly import NIGHTLY

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


def test_a_run_of_before_a_setting_was_there_is_refused_as_of_another_version(tmp_path):
    run = fm.run(write(tmp_path), out=tmp_path / "runs")
    resolved = run.folder / "resolved.yaml"
    settings = yaml.safe_load(resolved.read_text())
    assert settings["client"].pop("epochs") == 1
    resolved.write_text(yaml.safe_dump(settings))
    with pytest.raises(
        UserError, match=r"another version of fedmomentum, which did not have client\.epochs; .*start a new"
    ):
        fm.resume(run.folder, overrides=["rounds=9"])


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    run = fm.run(write(tmp_path), out=tmp_path / "runs")
    for state in run.folder.glob("checkpoints/*/state.json"):
        state.write_text(state.read_text().replace('"format": 1', '"format": 77'))
    with pytest.raises(UserError, match="another version"):
        fm.resume(run.folder, overrides=["rounds=9"])


def test_a_run_that_is_running_is_left_alone(tmp_path):
    run = fm.run(write(tmp_path), out=tmp_path / "runs")
    status = json.loads((run.folder / "status.json").read_text())
    (run.folder / "status.json").write_text(
        json.dumps(status | {"status": "running", "pid": os.getppid(), "pid_began": None})
    )
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


KILLS = 200 if NIGHTLY else 20


@pytest.mark.slow
@pytest.mark.timeout(1800 if NIGHTLY else 300)
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    """Mostly in the middle of what it writes: a checkpoint, a status, the model, a row of metrics."""
    path = write(tmp_path, rounds=150, strategy=ADAM, client=KEEPS, checkpoint={"every": 1, "keep": 1})
    whole = fm.run(path, out=tmp_path / "whole")
    out = tmp_path / "runs"
    rng = random.Random(secrets.randbits(32) if NIGHTLY else 0)
    processes = multiprocessing.get_context("forkserver")  # imports once, then forks in milliseconds
    processes.set_forkserver_preload(["fedmomentum.api", "fedmomentum.build", "fedmomentum.checkpointing"])
    halves = 0  # checkpoints that were being written
    for kill in range(KILLS):
        checkpoint = kill % 4 == 0  # in the middle of writing one, else anywhere, or anytime
        at = rng.randrange(2, 7) if checkpoint else rng.randrange(1, 150) if kill % 2 else None
        process = processes.Process(target=live, args=(path, out, at, "checkpoints/.tmp-" if checkpoint else ""))
        process.start()
        process.join(120 if at else rng.random())
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        for folder in (file.parent for file in out.glob("tiny/*/status.json")):
            halves += any(folder.glob("checkpoints/.tmp-*"))
            done = latest_checkpoint(folder)  # one that is not whole would be an error
            rows = [row["round"] for row in fm.load_run(folder).metrics]
            assert rows == list(range(len(rows))) and (done is None or done[0] < len(rows))
            if kill == 1:
                with (folder / "metrics.jsonl").open("a") as file:
                    file.write('{"round": 99')  # a line that the kill tore
    folders = list(out.glob("tiny/*/status.json"))
    assert len(folders) == 1 and halves >= 1
    folder = folders[0].parent
    fm.resume(folder)
    assert same_models(whole.folder, folder)
    assert (whole.folder / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert rounds_of(folder) == list(range(151))
    assert not list(folder.rglob("*.tmp*"))


def test_other_code_than_a_run_began_with_is_told(tmp_path):
    short = fm.run(write(tmp_path, rounds=1, engine={"name": "inline", "vectorize": "on"}), out=tmp_path / "runs")
    assert not fm.resume(short.folder, overrides=["rounds=2"]).warnings
    other = fm.resume(short.folder, overrides=["rounds=3", "engine.native=false", "engine.gram_memory=0"])
    assert "and from here on by batched products" in other.warnings[0] and "rounding differs" in other.warnings[0]
