from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import pytest

from fedmomentum.errors import UserError
from fedmomentum.runs import load_run
from fedmomentum.runs.atomic import read_json, write_json
from fedmomentum.runs.listing import disk_usage, entry, overview, planned
from fedmomentum.runs.process import alive, at_work, this_process
from tests.runs.conftest import Store

NOBODY = 2**22 + 1  # above the highest process number of Linux


def change(path: Path, **facts: object) -> None:
    write_json(path / "status.json", {**read_json(path / "status.json"), **facts})


def test_a_run_and_its_score(store: Store) -> None:
    path = store({"": [0.1, 0.9, 0.7]}, {"rounds": 2})
    change(path, started="2026-01-01T10:00:00+00:00", ended="2026-01-01T11:01:01.500+00:00")
    one = entry(load_run(path))
    assert (one.name, one.status, one.rounds_done, one.rounds) == ("quick", "finished", 2, 2)
    assert one.leader is not None and one.leader[0] == ""
    assert (one.leader[1].final, one.leader[1].best) == (0.7, 0.9)
    assert one.seconds == 3661.5
    assert one.bytes == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_the_leader_is_the_arm_with_the_highest_last_value(store: Store) -> None:
    one = entry(load_run(store({"A": [0.1, 0.95, 0.5], "B": [0.1, 0.6, 0.7], "C": [0.9, 0.9, math.nan]})))
    assert one.leader is not None and one.leader[0] == "B"
    assert (one.rounds_done, one.rounds, len(one.arms)) == (6, 6, 3)
    assert one.arms["C"].best == 0.9 and math.isnan(one.arms["C"].final or 0)
    by_loss = entry(load_run(store({"A": [0.5, 0.3], "B": [0.1, 0.4]}, metric="loss")))
    assert by_loss.metric == "loss" and by_loss.leader is not None
    assert by_loss.leader == ("A", by_loss.arms["A"]) and by_loss.arms["B"].best == 0.1
    unscored = entry(load_run(store({"": [0.5, 0.4]}, metric="something")))
    assert unscored.leader is None and unscored.metric == ""


def test_a_run_under_way(store: Store) -> None:
    settings = {"rounds": 10, "arms": {"A": {}, "B": {"rounds": 20}}, "sweep": {"seeds": 3}}
    path = store({"A,seed=0": [0.1, 0.2, 0.3]}, settings, status="running", rounds=10)
    change(path / "arms" / "A-seed=0", rounds_done=1)  # the status is written once a second, the rows at once
    one = entry(load_run(path))
    assert (one.status, one.rounds_done, one.rounds) == ("running", 2, 90)
    assert one.seconds is not None and 0 <= one.seconds < 60


@pytest.mark.parametrize(
    ("updated", "pid", "status"),
    [
        ("2026-01-01T00:00:00+00:00", NOBODY, "running?"),
        ("2026-01-01T00:00:00+00:00", os.getpid(), "running"),
        (None, NOBODY, "running"),
    ],
    ids=["dead", "alive", "no time"],  # not the process id: parallel workers must see the same names
)
def test_a_run_that_was_killed_is_not_called_running(store: Store, updated: str | None, pid: int, status: str) -> None:
    path = store({"": [0.1]}, status="running")
    change(path, pid=pid, started="2025-12-31T23:00:00+00:00", **({"updated": updated} if updated else {}))
    one = entry(load_run(path))
    assert one.status == status
    if status == "running?":
        assert one.seconds == 3600, "until its last sign of life"


def test_scenarios_are_read_only_where_they_are_needed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """YAML is what would take the time in a list of a thousand runs."""
    out = store({"": [0.1, 0.2]}, {"seed": 5}).parents[1]
    read: list[Path] = []
    monkeypatch.setattr("fedmomentum.runs.read.read_yaml", lambda path: read.append(path) or {"seed": 5, "a": 1})
    for filters in ([], ["name=quick", "status=finished", "arm="]):
        assert len(overview(out, filters=filters)) == 1
    assert read == []
    assert len(overview(out, filters=["a=1"])) == 1 and len(read) == 1


def test_planned_rounds() -> None:
    assert planned({"rounds": 7}) == 7
    assert planned({"rounds": 7, "sweep": {"seeds": 3}}) == 21
    assert planned({"arms": {"A": {"rounds": 1}, "B": {"rounds": 2}}}) == 3
    assert planned({}) == 0


def test_sorting(store: Store) -> None:
    paths = [
        store({"": [0.1, 0.2]}, name="b"),
        store({"": [0.1, 0.9]}, name="A"),
        store({"": [0.1]}, name="c", metric="loss"),
        store({"": [0.1, 0.5]}, name="b"),
        store({"": [0.1, math.nan]}, name="d"),
    ]
    for minute, path in enumerate(paths):
        change(path, started=f"2026-01-01T10:0{minute}:00+00:00")
    out = paths[0].parents[1]
    order = {how: [paths.index(e.path) for e in overview(out, sort=how)] for how in ("time", "name", "accuracy")}
    assert order == {"time": [4, 3, 2, 1, 0], "name": [1, 3, 0, 2, 4], "accuracy": [1, 3, 0, 4, 2]}


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["name=quick"], {"quick"}),
        (["name=q*"], {"quick", "quiet"}),
        (["status=failed"], {"quiet"}),
        (["arm=FedAvg*"], {"slow"}),
        (["client.lr=1e-1"], {"quick", "slow"}),
        (["client.lr=0.10", "seed=3"], {"quick"}),
        (["strategy.name=fedavgm"], {"slow"}),
        (["strategy.name=fedavgm", "seed=4"], {"slow"}),
        (["strategy.name=fedavg", "seed=9"], set()),
        (["flag=true"], {"quick"}),
        (["flag=1"], set()),
        (["nothing=null"], {"quiet"}),
    ],
)
def test_filters(store: Store, filters: list[str], names: set[str]) -> None:
    store({"": [0.1]}, {"client": {"lr": 0.1}, "seed": 3, "flag": True})
    store({"": [0.1]}, {"client": {"lr": 0.2}, "seed": 9, "nothing": None}, name="quiet", status="failed")
    arms = {"FedAvg": {"strategy": {"name": "fedavg"}}, "FedAvgM": {"strategy": {"name": "fedavgm"}, "seed": 4}}
    out = store({"FedAvg": [0.1], "FedAvgM": [0.2]}, {"client": {"lr": 0.1}, "arms": arms}, name="slow").parents[1]
    assert {one.name for one in overview(out, filters=filters)} == names


@pytest.mark.parametrize(
    ("text", "message"),
    [("accuracy", "expected key=value"), ("=3", "expected key=value"), ("stragety.name=x", "no run has this")],
)
def test_filters_that_make_no_sense(store: Store, text: str, message: str) -> None:
    out = store({"": [0.1]}).parents[1]
    with pytest.raises(UserError, match=message):
        overview(out, filters=[text])


@pytest.mark.parametrize(
    ("file", "content", "status"),
    [
        ("status.json", '{"status": "fini', "unreadable"),
        ("status.json", "[]", "unreadable"),
        ("metrics.jsonl", "{}\nnonsense\n{}\n", "finished"),
        ("metrics.jsonl", '{"accuracy": 0.5}\n', "finished"),
        ("metrics.jsonl", '{"round": 1, "accuracy": "high"}\n', "finished"),
    ],
)
def test_one_damaged_run_does_not_hide_the_others(store: Store, file: str, content: str, status: str) -> None:
    bad, good = store({"": [0.1, 0.2]}, name="bad"), store({"": [0.1, 0.3]}, name="good")
    (bad / file).write_text(content)
    entries = {one.path: one for one in overview(good.parents[1])}
    assert (entries[good].status, entries[good].problem) == ("finished", "")
    assert entries[bad].status == status and file in entries[bad].problem
    assert [one.path for one in overview(good.parents[1], filters=["name=good"])] == [good]


def test_a_torn_last_line_is_nothing_to_speak_of(store: Store) -> None:
    path = store({"": [0.1, 0.2]}, status="running", rounds=5)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "accur')
    one = entry(load_run(path))
    assert (one.problem, one.rounds_done) == ("", 1)


def test_disk_usage_follows_no_links(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(b"12345")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "y").write_bytes(b"12")
    (tmp_path / "a" / "to_y").symlink_to(tmp_path / "y")
    assert disk_usage(tmp_path) == 7 and disk_usage(tmp_path / "a") == 5
    assert disk_usage(tmp_path / "absent") == 0


def test_who_is_alive() -> None:
    assert alive(os.getpid()) and alive(1)
    assert not any(map(alive, (NOBODY, 0, -1, None, "1", 2**70)))
    assert at_work(this_process()) and at_work({"pid": os.getpid()})


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells")
def test_a_number_that_was_given_out_again_or_not_waited_for_is_nobody() -> None:
    assert not at_work({"pid": os.getpid(), "pid_began": "an earlier process"})
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not alive(process.pid)
    process.wait()


def test_an_entry_is_plain_data(store: Store) -> None:
    json.dumps(entry(load_run(store({"A": [0.1]}))).as_dict())
