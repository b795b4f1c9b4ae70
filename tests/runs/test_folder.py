from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from fedmomentum.errors import UserError
from fedmomentum.events import End, Failure, RoundEnd, Start
from fedmomentum.runs import Recorder, RunFolder, list_runs, load_parameters, load_run, loading_snippet, provenance
from fedmomentum.runs import recorder as recorder_module
from fedmomentum.runs.folder import slug

TEXT = "# a question\nname: quick\nrounds: 3\n"
RESOLVED = {"name": "quick", "rounds": 3, "lr": 1e-5, "answer": "no", "nested": {"alpha": [0.1, 10], "none": None}}
Make = Callable[..., RunFolder]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def create(name: str = "quick") -> RunFolder:
        return RunFolder.create(tmp_path / "runs", name, scenario_text=TEXT, resolved=RESOLVED, hash="1a2b3c4d5e6f")

    return create


def play(folder: RunFolder, arm: str = "", rounds: int = 3, first: int = 1, status: str = "finished") -> None:
    recorder = Recorder(folder)
    recorder.start(Start("quick", rounds, first_round=first, arm=arm, facts={"clients": 2}))
    for n in range(first, rounds + 1):
        clients: dict[str, list[float]] = {"client": [4, 7], "num-examples": [10.0, 20.0], "loss": [n / 2, math.nan]}
        failures = [Failure(9, "dropped out", "dropout")] if n == 2 else []
        recorder.round_end(
            RoundEnd(n, rounds, {"accuracy": n / 10, "cohort": 3.0}, clients, failures, {"train": 0.5}, arm)
        )
    recorder.end(End(status, rounds, arm))


def test_a_new_folder_holds_the_scenario_and_reads_as_running(make: Make) -> None:
    folder = make()
    assert re.fullmatch(r"\d{8}-\d{6}-1a2b3c4d", folder.path.name)
    assert folder.path.parent.name == "quick"
    run = load_run(folder.path)
    assert run.text == TEXT
    assert run.scenario == RESOLVED
    assert (run.name, run.status["status"], run.status["rounds_done"]) == ("quick", "running", 0)
    assert run.metrics == run.clients == run.failures == []
    assert run.arms == {}


def test_folders_made_within_one_second_are_different(make: Make) -> None:
    assert len({make().path for _ in range(5)}) == 5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("FedAvg", "FedAvg"),
        ("../../etc/passwd", "etc-passwd"),
        ("strategy.server_momentum=0.9, seed=1", "strategy.server_momentum=0.9-seed=1"),
        ("β = 0,9", "=-0-9"),
        ("...", "run"),
        ("é", "e"),
        ("x" * 300, "x" * 80),
    ],
)
def test_slug(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_what_a_recorder_writes_is_what_load_run_reads(make: Make) -> None:
    folder = make()
    play(folder)
    run = load_run(folder.path)
    assert [row["accuracy"] for row in run.metrics] == [0.1, 0.2, 0.3]
    assert run.metrics[1] == {"round": 2, "accuracy": 0.2, "cohort": 3.0, "seconds_train": 0.5}
    assert run.table["round"] == [1, 2, 3]
    assert len(run.clients) == 6
    assert run.clients[2] == {"round": 2, "client": 4, "num-examples": 10.0, "loss": 1.0}
    assert math.isnan(run.clients[3]["loss"])
    assert run.failures == [{"round": 2, "client": 9, "reason": "dropped out", "kind": "dropout"}]
    assert run.status["status"] == "finished" and run.status["rounds_done"] == 3 and run.status["rounds"] == 3
    assert run.status["facts"] == {"clients": 2}
    assert run.status["started"] <= run.status["ended"]
    assert pd.DataFrame(run.metrics).accuracy.tolist() == [0.1, 0.2, 0.3]


def test_a_resumed_run_leaves_the_rows_of_an_unbroken_one(make: Make) -> None:
    whole, broken = make(), make()
    play(whole, rounds=5)
    play(broken, rounds=4, status="interrupted")
    assert "ended" in broken.status()
    play(broken, rounds=5, first=3)  # the last checkpoint was that of round 2
    for table in ("metrics.jsonl", "clients.jsonl", "failures.jsonl"):
        assert (broken.path / table).read_bytes() == (whole.path / table).read_bytes()


def test_a_run_that_begins_afresh_leaves_nothing_of_the_one_before(make: Make) -> None:
    folder = make()
    for loss in (2.0, 3.0):
        recorder = Recorder(folder)
        recorder.start(Start("quick", 2))
        recorder.round_end(RoundEnd(0, 2, {"loss": loss}))  # the model at the start, before round 1
    assert load_run(folder.path).metrics == [{"round": 0, "loss": 3.0}]


def test_a_restart_reads_as_running_until_it_ends(make: Make) -> None:
    folder = make()
    play(folder, rounds=2, status="interrupted")
    Recorder(folder).start(Start("quick", 3, first_round=3))
    status = folder.status()
    assert status["status"] == "running" and status["rounds_done"] == 2 and "ended" not in status


def test_unequal_columns_are_refused(make: Make) -> None:
    recorder = Recorder(make())
    recorder.start(Start("quick", 1))
    with pytest.raises(ValueError):
        recorder.round_end(RoundEnd(1, 1, {}, {"client": [1, 2], "loss": [0.5]}))


@pytest.mark.parametrize(("period", "writes"), [(3600.0, 0), (-1.0, 20)])
def test_the_status_is_not_forced_to_disk_every_round(
    make: Make, monkeypatch: pytest.MonkeyPatch, period: float, writes: int
) -> None:
    recorder = Recorder(make())
    recorder.start(Start("quick", 20))
    count: list[object] = []
    monkeypatch.setattr(recorder_module, "STATUS_PERIOD", period)
    monkeypatch.setattr(RunFolder, "set_status", lambda self, *a, **k: count.append(k))
    for n in range(1, 21):
        recorder.round_end(RoundEnd(n, 20, {}))
    assert len(count) == writes


def test_arms_have_folders_of_their_own_and_the_run_joins_them(make: Make) -> None:
    folder = make()
    for arm in ("FedAvgM", "Fed Avg", "Fed/Avg"):
        play(folder, arm, rounds=2)
    folder.set_status("finished")
    assert folder.arm("FedAvgM") == folder.arm("FedAvgM")
    assert folder.arm("FedAvgM").arm("FedAvgM") == folder.arm("FedAvgM")
    run = load_run(folder.path)
    assert list(run.arms) == ["FedAvgM", "Fed Avg", "Fed/Avg"]
    assert [arm.path.name for arm in run.arms.values()] == ["FedAvgM", "Fed-Avg", "Fed-Avg-2"]
    assert run.status["status"] == "finished"
    assert [(row["arm"], row["round"]) for row in run.metrics[:3]] == [("FedAvgM", 1), ("FedAvgM", 2), ("Fed Avg", 1)]
    assert run.arms["Fed/Avg"].metrics == run.series["Fed/Avg"] == load_run(run.arms["Fed/Avg"].path).metrics
    assert load_run(run.arms["Fed/Avg"].path).arm == "Fed/Avg"
    assert len(run.clients) == 12 and len(run.failures) == 3


def test_an_unknown_status_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="done"):
        make().set_status("done")


def test_parameters_round_trip_bit_by_bit(make: Make) -> None:
    stacked = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    tied = torch.randn(5, dtype=torch.float64, requires_grad=True)
    tree = {"a": stacked[1], "b": stacked.t(), "c": tied, "d": tied, "count": torch.tensor(7)}
    path = make().save_parameters(tree, round=3)
    loaded = load_parameters(path)
    assert loaded.keys() == tree.keys()
    for name, x in tree.items():
        assert loaded[name].dtype == x.dtype and torch.equal(loaded[name], x)


def test_the_snippet_loads_the_model(make: Make) -> None:
    model = torch.nn.Linear(3, 2)
    path = make().save_parameters(model.state_dict())
    other = torch.nn.Linear(3, 2)
    exec(loading_snippet(path), {"model": other})
    assert torch.equal(other.weight, model.weight)


def test_models_that_cannot_be_loaded(make: Make) -> None:
    folder = make()
    with pytest.raises(UserError, match="no model was saved"):
        load_run(folder.path).parameters()
    (folder.path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="not a safetensors file"):
        load_run(folder.path).parameters()
    folder.arm("FedAvg").save_parameters({"w": torch.ones(1)})
    run = load_run(folder.path)
    with pytest.raises(UserError, match="FedAvg"):
        run.parameters()
    assert run.arms["FedAvg"].parameters() == {"w": torch.ones(1)}


def test_what_is_no_run_folder(make: Make, tmp_path: Path) -> None:
    latest = [make() for _ in range(2)][-1]
    with pytest.raises(UserError, match="no such folder"):
        load_run(tmp_path / "absent")
    with pytest.raises(UserError, match=re.escape(f"holds 2 of them, the latest is {latest.path}")):
        load_run(latest.path.parent)
    with pytest.raises(UserError, match="expected a run folder"):
        load_run(latest.path / "scenario.yaml")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="cannot make a run folder"):
        RunFolder.create(blocked, "x", scenario_text="", resolved={}, hash="0")


def test_list_runs_gives_the_latest_first_and_no_arms(make: Make, tmp_path: Path) -> None:
    folders = [make(name) for name in ("a", "b", "a")]
    folders[0].arm("FedAvg")
    assert [run.path for run in list_runs(tmp_path / "runs")] == [f.path for f in reversed(folders)]
    assert [run.name for run in list_runs(tmp_path / "runs" / "a")] == ["a", "a"]
    assert list_runs(tmp_path / "absent") == []


def test_provenance_says_what_and_never_who(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    facts = provenance(data={"digits": "sha256:00"}, argv=["/home/ada/bin/fedmomentum", "run", "/home/ada/x.yaml"])
    assert facts["command"] == ["fedmomentum", "run", "~/x.yaml"]
    assert facts["data"] == {"digits": "sha256:00"}
    versions = facts["versions"]
    assert isinstance(versions, dict)
    assert versions["torch"] == torch.__version__ and versions["python"] == sys.version.split()[0]
    assert versions["fedmomentum"]
    assert "ada" not in str(facts) and "hunter2" not in str(facts)


def test_the_commit_is_the_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    (tmp_path / "x").write_text("1")
    git("add", "x")
    git("commit", "-q", "--no-verify", "-m", "x")
    monkeypatch.chdir(tmp_path)

    def here() -> object:
        found = provenance()["git"]
        assert isinstance(found, dict)
        return found["working_directory"]

    assert here() == {"commit": git("rev-parse", "HEAD").strip(), "dirty": False}
    (tmp_path / "x").write_text("2")
    assert here() == {"commit": git("rev-parse", "HEAD").strip(), "dirty": True}


def test_importing_runs_loads_nothing_heavy() -> None:
    heavy = {"torch", "flwr", "ray", "yaml", "numpy", "safetensors"}
    code = f"import sys, fedmomentum.runs; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
