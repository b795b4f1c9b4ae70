"""The profile: phases add up to the rounds, workers to what they did, and the trace is one that viewers read."""

from __future__ import annotations

import json

import pytest

from fedmomentum.cli import main
from fedmomentum.events import End, RoundEnd, Span, Start
from fedmomentum.runs import RunFolder
from fedmomentum.runs import profile as profiles

SCENARIO = """
rounds: 3
data: {name: digits, partition: {name: iid, clients: 6}}
model: {name: logistic}
client: {optimizer: {name: sgd, lr: 0.1}}
strategy: {name: fedavg}
participation: {name: uniform, fraction: 1.0}
engine: {name: inline, block_size: 3}
"""


def event(server_round, spans):
    phases = {"configure": 1.0, "train": 6.0, "aggregate": 1.0}
    return RoundEnd(server_round, 2, {"seconds": 8.0}, seconds_by_phase=phases, spans=spans)


def test_sums_by_phase_and_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "MOST_SPANS", 4)
    folder = RunFolder.create(tmp_path, "x", scenario_text="", resolved={}, hash="0" * 8)
    profiler = profiles.Profiler(folder)
    profiler.start(Start("x", 2))
    spans = [
        Span("train", 10.0, 3.0, "a", 1, 5),
        Span("train", 10.0, 6.0, "b", 1, 7),
        Span("evaluate", 16.0, 2.0, "b", 1),
    ]
    profiler.round_end(event(1, [Span("train", 10.0, 6.0), *spans]))
    profiler.round_end(event(2, spans[:2]))
    profiler.end(End("finished", 2))
    found = json.loads((folder.path / "profile.json").read_text())
    assert found["rounds"] == 2 and found["seconds"] == 16.0
    assert found["phases"]["train"] == {"seconds": 12.0, "share": 0.75, "per_round": 6.0}
    assert found["workers"]["worker a:1"] == {"seconds": 6.0, "tasks": 2, "clients": 10, "tests": 0.0, "busy": 0.5}
    assert found["workers"]["worker b:1"] == {"seconds": 12.0, "tasks": 3, "clients": 14, "tests": 2.0, "busy": 1.0}
    assert found["spans_left_out_of_the_trace"] == 2
    events = json.loads((folder.path / "trace.json").read_text())["traceEvents"]
    drawn = [e for e in events if e["ph"] == "X"]
    assert [e["dur"] for e in drawn] == [6e6, 3e6, 6e6, 2e6] and drawn[0]["ts"] == 1e7
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert [names[e["pid"]] for e in drawn] == ["rounds", "worker a:1", "worker b:1", "worker b:1"]
    for e in events:  # what the trace event format asks of metadata ("M") and of complete events ("X")
        assert {"name", "ph", "pid", "tid", "args"} <= e.keys()
        assert e["ph"] in ("M", "X")
        assert type(e["pid"]) is int and type(e["tid"]) is int
        if e["ph"] == "X":
            assert e["ts"] >= 0 and e["dur"] >= 0 and isinstance(e["cat"], str)
    assert {e["pid"] for e in drawn} == names.keys()


@pytest.mark.parametrize("asked", [True, False])
def test_the_command_writes_it_where_it_is_asked_to(tmp_path, monkeypatch, capsys, asked):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(SCENARIO)
    assert main(["run", "s.yaml", "--quiet", *["--profile"] * asked]) == 0
    (folder,) = (tmp_path / "runs" / "s").iterdir()
    assert (folder / "trace.json").exists() == asked
    if not asked:
        return
    found = json.loads((folder / "profile.json").read_text())
    assert found["rounds"] == 3
    assert {"configure", "train", "reduce", "aggregate", "evaluate"} <= set(found["phases"])
    parts = {name: phase["seconds"] for name, phase in found["phases"].items() if name != "checkpoint"}
    assert 0 < sum(parts.values()) <= found["seconds"] * (1 + 1e-9)
    ((_, worker),) = found["workers"].items()
    assert worker["clients"] == 18 and worker["tasks"] == 6
    assert worker["busy"] > 0
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert sum(e["args"].get("clients", 0) for e in events if e["ph"] == "X") == 18
    assert main(["report", str(folder), "--no-plots"]) == 0
    assert "of the training time" in (folder / "report.html").read_text()
