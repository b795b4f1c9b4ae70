"""Run folders as they come back from full disks, torn copies, editors and strangers: a line of words, never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fedmomentum as fm
from fedmomentum.cli import main, watch
from fedmomentum.errors import UserError
from fedmomentum.runs import load_run
from fedmomentum.runs.checks import read_status
from tests.end_to_end.tiny import write
from tests.nightly import examples

TABLES = ("metrics.jsonl", "clients.jsonl", "failures.jsonl")
WHOLE = ("status.json", "resolved.yaml", "scenario.yaml", "provenance.json", "partition.json", "findings.json")
FILES = [*WHOLE, *TABLES, *(f"arms/a/{name}" for name in ("status.json", "findings.json", *TABLES))]

READING = [
    ["show", "RUN"],
    ["compare", "RUN", "GOOD", "--no-plots"],
    ["compare", "RUN", "--metric", "loss", "--no-plots", "--json"],
    ["list", "runs", "--out", "OUT"],
    ["runs", "list", "--out", "OUT"],
    ["runs", "list", "--out", "OUT", "--filter", "strategy.name=fedavg", "--json"],
    ["watch", "RUN", "--interval", "0.01"],
    ["export", "RUN", "--csv", "--out", "OUT/tables.csv"],
    ["export", "RUN", "--csv", "--table", "failures", "--out", "-"],
    ["report", "RUN", "--no-plots", "--out", "OUT/report.html"],
    ["report", "GOOD", "RUN", "--no-plots", "--out", "OUT/report.html"],
]

FINDING = {"claim": "c", "predicted": 1.0, "measured": None, "unit": "", "relation": "equal", "relative_error": 0.0}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two arms with every file that a run can have."""
    out = tmp_path_factory.mktemp("good")
    claims = [{"metric": "accuracy", "arm": "a", "ge": 0.0}]
    arms = {"a": {"strategy": {"name": "fedavg"}}, "b": {}}
    folder = fm.run(write(out, rounds=2, arms=arms, expect=claims, checkpoint={"every": 1}), out=out).folder
    for place in (folder, folder / "arms" / "a"):
        (place / "findings.json").write_text(json.dumps([FINDING | {"tolerance": 0.1, "holds": True}]))
        (place / "failures.jsonl").write_text('{"round": 1, "client": 3, "reason": "late", "kind": "timeout"}\n')
    for table in TABLES[:2]:
        shutil.copy(folder / "arms" / "a" / table, folder / table)
    return folder


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PATIENCE", 0.05)
    monkeypatch.setattr(watch, "CLAIMS", 0.05)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, good: Path) -> Iterator[Path]:
    """Where damaged copies are made."""
    yield tmp_path_factory.mktemp("damaged")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "high", "../..", "\0"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "round", "name"]), inner, max_size=2)
    ),
    max_leaves=3,
)
LINES = [b"", b"{}", b"[]", b"null", b'{"round": null}', b'{"round": 1e999}', b'{"round": 1.5}', b'{"round": -1}',
         b'{"round": 1, "accuracy": "high"}', b'{"round": 1, "client": {}}', b'{"round": ', b"\xff\xfe", b"[" * 5000,
         b'{"round": 1' + b"0" * 5000 + b"}", b"!!python/object/apply:os.system [true]", b"---", b"&a [*a, *a]"]  # fmt: skip


def mutated(data: st.DataObject, value: Any) -> Any:
    """Put something else somewhere into plain data."""
    if isinstance(value, dict | list) and value and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(list(value) if isinstance(value, dict) else list(range(len(value)))))
        if isinstance(value, dict) and data.draw(st.integers(0, 4)) == 0:
            return {k: v for k, v in value.items() if k != key}
        items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        changed = [(k, mutated(data, v) if k == key else v) for k, v in items]
        return dict(changed) if isinstance(value, dict) else [v for _, v in changed]
    return data.draw(json_values)


def damage(data: st.DataObject, file: Path) -> None:
    content = file.read_bytes()
    match data.draw(
        st.sampled_from(["gone", "empty", "cut", "bytes", "line", "folder", "loop", "value", "value", "value"])
    ):
        case "gone":
            file.unlink()
        case "empty":
            file.write_bytes(b"")
        case "cut":
            file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        case "bytes":
            file.write_bytes(data.draw(st.binary(max_size=30)))
        case "line":
            lines = content.split(b"\n")
            lines.insert(data.draw(st.integers(0, len(lines))), data.draw(st.sampled_from(LINES)))
            file.write_bytes(b"\n".join(lines))
        case "folder":
            file.unlink()
            file.mkdir()
        case "loop":
            file.unlink()
            file.symlink_to(file)
        case _ if file.suffix == ".jsonl":
            rows = [json.loads(line) for line in content.splitlines()]
            file.write_text("".join(f"{json.dumps(row)}\n" for row in mutated(data, rows) or []) if rows else "")
        case _ if file.suffix == ".yaml":
            file.write_text(yaml.safe_dump(mutated(data, yaml.safe_load(content))))
        case _:
            file.write_text(json.dumps(mutated(data, json.loads(content))))


@settings(
    max_examples=examples(150),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_whoever_reads_a_damaged_run_is_told(data: st.DataObject, good: Path, place: Path, capfd: Any) -> None:
    run = place / "tiny" / "run"
    shutil.rmtree(place)
    shutil.copytree(good, run)
    file = run / data.draw(st.sampled_from(FILES))
    try:
        damage(data, file)
    except TypeError:  # what is now no list of rows
        file.write_text("7\n")
    words = data.draw(st.sampled_from(READING))
    names = {"RUN": str(run), "GOOD": str(good), "OUT": str(place)}
    code = main([names.get(word, word.replace("OUT", str(place))) for word in words])
    said = capfd.readouterr().err
    assert "Traceback" not in said and "internal error" not in said
    assert code in (0, 2) or (words[0] == "watch" and code in (0, 1, 2, 3, 130)), said
    if code == 2:
        assert said.strip() and len(said) < 2000
        assert str(run) in said or words[0] in ("export", "runs", "compare"), said


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("status.json", "", "status.json: not JSON"),
        ("status.json", "[]", "status.json: holds list, expected a JSON object"),
        (
            "status.json",
            '{"arms": {"a": "../../elsewhere"}}',
            "arms is {'a': '../../elsewhere'}, expected names of arms",
        ),
        ("status.json", '{"arms": {"a": "/etc"}}', "expected names of arms and their folders inside this one"),
        ("status.json", '{"rounds_done": "many"}', "rounds_done is 'many', expected a whole number of at least 0"),
        ("status.json", '{"expectations": [1]}', "expectations is [1], expected a list of claims"),
        ("resolved.yaml", "a: [", "resolved.yaml: not YAML"),
        ("resolved.yaml", "- 1", "resolved.yaml: holds list, expected a mapping of settings"),
        ("arms/a/metrics.jsonl", '{"round": 1}\n{"accuracy": 1}\n', "metrics.jsonl:2: has no round"),
        ("arms/a/metrics.jsonl", '{"round": 0.5}\n', "metrics.jsonl:1: round is 0.5, expected a whole number"),
        ("arms/a/metrics.jsonl", '{"round": 1, "accuracy": "high"}\n', ":1: accuracy is 'high', expected a number"),
        ("arms/a/metrics.jsonl", '{"round": 1, "x": [1]}\n', "metrics.jsonl:1: x is [1], expected a number"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    file: str, content: str, says: str, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(good, run)
    (run / file).write_text(content)
    assert main(["compare", str(run), "--no-plots"]) == 2
    said = capsys.readouterr().err
    assert says in said and said.startswith(str(run)) and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("status.json", "{}", ""),
        ("status.json", "{", "status.json: not JSON"),
        ("resolved.yaml", "", "resolved.yaml"),
        ("resolved.yaml", "\0", "resolved.yaml"),
        ("resolved.yaml", None, "it has no resolved.yaml"),
        ("provenance.json", '{"data": 5}', "provenance.json: data is not what it was written as"),
        ("provenance.json", '{"data": {"digits": "abc"}}', "data 'digits' is not what the run began with"),
        ("arms/a/status.json", "7", "status.json: holds int"),
        ("arms/a/metrics.jsonl", '{"round": "x"}\n', "metrics.jsonl:1: round is 'x'"),
        ("arms/a/checkpoints/*/state.json", "", "not a whole checkpoint"),
        ("arms/a/checkpoints/*/state.json", None, "not a whole checkpoint"),
        ("arms/a/checkpoints/*/state.json", '{"format": 1, "state": {}}', "state.json is damaged"),
        ("arms/a/checkpoints/*/tensors.safetensors", "x", "tensors.safetensors is damaged"),
        ("arms/a/checkpoints/*/tensors.safetensors", None, "not a whole checkpoint"),
        ("arms/a/checkpoints/round-000002/tensors.safetensors", "x", ""),  # there is an older one
        ("arms/a/clients.jsonl", None, ""),
        ("scenario.yaml", None, ""),
        ("partition.json", "{", ""),
        ("arms/a/model.safetensors", "x", ""),
    ],
)
def test_going_on_with_a_damaged_run_works_or_is_refused(
    file: str, content: str | None, says: str, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(good, run)
    for found in list(run.glob(file)):
        found.unlink() if content is None else found.write_text(content)
    code = main(["resume", str(run), "--quiet"])
    said = capsys.readouterr().err
    assert "Traceback" not in said and "internal" not in said
    assert code == (2 if says else 0), said
    assert says in said


def test_a_checkpoint_whose_checksums_fit_but_not_its_content(good: Path, tmp_path: Path) -> None:
    from fedmomentum.runs.checkpoint import save_checkpoint

    for state, says in (({}, "does not fit this scenario"), ({"arrays": {}}, "is not there in it, and float32")):
        run = tmp_path / str(len(state))
        shutil.copytree(good, run)
        save_checkpoint(run / "arms" / "a", 2, state)
        with pytest.raises(UserError, match=says):
            fm.resume(run, overrides=["rounds=3"])


def test_a_run_cannot_be_shortened(good: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(good, run)
    with pytest.raises(UserError, match="rounds: 2 of arm 'a' are done, so going on to 1 is not possible"):
        fm.resume(run, overrides=["rounds=1"])
    assert (run / "resolved.yaml").read_bytes() == (good / "resolved.yaml").read_bytes()


def test_what_we_write_passes_our_own_checks(good: Path) -> None:
    for file in good.rglob("status.json"):
        assert read_status(file)["status"] == "finished"
    assert load_run(good).metrics and load_run(good).clients and len(load_run(good).arms["a"].failures) == 1
