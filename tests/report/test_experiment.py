"""Reports of runs without clients: what was predicted, what was measured, the pictures, and the words for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedmomentum.cli import main
from fedmomentum.report.page import write_report
from fedmomentum.runs import load_run
from fedmomentum.runs.findings import finding, write_findings

from .browser import needs_browser, visit
from .made_runs import Made, make
from .test_page import ATTACKS, Words, data_of

PNG = b"\x89PNG\r\n\x1a\n"


def claim(name: str, *, error: float = 0.001, holds: bool = True) -> dict[str, object]:
    return {"claim": name, "predicted": 2.0, "measured": 2.002, "unit": "per step", "relation": "at_least",
            "relative_error": error, "tolerance": 0.01, "holds": holds}  # fmt: skip


@pytest.fixture
def analogy(tmp_path: Path) -> Path:
    """An analogy: one row, two findings, a picture that is one and one that is none."""
    run = make(tmp_path, Made(rounds=0, scenario={"kind": "analogy", "system": {"name": "spring"}}, cohort=0))
    (run.path / "metrics.jsonl").write_text('{"round": 1, "relative_error": 0.2, "radius": 0.9, "elapsed": 1}\n')
    (run.path / "failures.jsonl").unlink(missing_ok=True)
    write_findings(run.path, [finding(claim("radius")), finding(claim(ATTACKS[0], error=0.2, holds=False))])
    (run.path / "plots").mkdir(exist_ok=True)
    (run.path / "plots" / "spring.png").write_bytes(PNG + b"spring")
    (run.path / "plots" / "wrong.png").write_bytes(b"<script>")
    return run.path


def page_of(*paths: Path, out: Path) -> tuple[Path, Words]:
    [page] = write_report([load_run(path) for path in paths], out / "report.html", plots=False)
    return page, Words(page.read_text(encoding="utf-8"))


def test_an_analogy(analogy: Path, tmp_path: Path) -> None:
    page, words = page_of(analogy, out=tmp_path)
    assert "1 of 2 predictions hold; the largest relative error is 0.200." in words.words[""]
    assert words.rows["predictions"][1] == [
        "radius",
        "holds",
        "at least 2.000 per step",
        "2.002 per step",
        "0.10%",
        "1.00%",
    ]
    assert words.rows["predictions"][2][:2] == [ATTACKS[0], "does not hold"]
    assert words.elements["img"] == 1 and "1 more are in the folders plots" in words.words["pictures"]
    assert not {"numbers", "failures", "probes", "steady"} & words.words.keys()
    assert data_of(page) == [], "a chart of one point says nothing"


def test_steps_are_not_called_rounds(tmp_path: Path) -> None:
    run = make(tmp_path, Made(arms={"a": 0.1, "b": 0.2}, scenario={"kind": "optimize", "steps": 20}, cohort=0))
    page, words = page_of(run.path, out=tmp_path)
    assert "after 20 steps" in words.words[""] and "20 steps, 2 arms" in words.words[""]
    assert "rounds" not in "".join(words.words[name] for name in ("numbers", "curves"))
    assert words.rows["numbers"][-1][0] == "b" or words.rows["numbers"][-1][0] == "a"
    assert "client updates" not in words.words["numbers"]
    assert {chart["axes"]["round"] for chart in data_of(page)} == {"step"}
    assert "Loss on the central test set" not in words.words["curves"]


def test_what_never_changes_is_a_line_and_no_chart(tmp_path: Path) -> None:
    run = make(tmp_path, Made(extra={"lr": lambda r: 0.2, "moves": lambda r: float(r)}))
    page, words = page_of(run.path, out=tmp_path)
    assert ["lr", "0.200"] in words.rows["steady"]
    keys = [chart["key"] for chart in data_of(page)]
    assert "moves" in keys and "lr" not in keys


def test_a_damaged_table_of_predictions_is_named(analogy: Path, tmp_path: Path) -> None:
    (analogy / "findings.json").write_text('[{"claim": 1}]')
    _, words = page_of(analogy, out=tmp_path)
    assert "findings.json" in words.words["failures"] and "KeyError" in words.words["failures"]


def test_the_other_commands_know_such_runs(
    analogy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    other = make(tmp_path, Made(name="other", scenario={"kind": "optimize"}, cohort=0)).path
    assert main(["runs", "list", "--out", str(tmp_path), "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert (listed["made"]["metric"], listed["made"]["arms"][""]["final"]) == ("relative_error", 0.2)
    assert listed["other"]["metric"] == "accuracy"
    assert main(["runs", "list", "--out", str(tmp_path)]) == 0
    assert "relative_error" in capsys.readouterr().out
    assert main(["compare", str(analogy), str(analogy), "--no-plots"]) == 0
    assert "0.200" in capsys.readouterr().out
    assert main(["export", str(analogy), "--csv", "--out", "-"]) == 0
    assert capsys.readouterr().out.startswith("round,relative_error,radius,elapsed\n1,0.2,")
    assert main(["watch", str(other)]) == 0


@needs_browser
def test_it_opens_without_complaint(analogy: Path, tmp_path: Path) -> None:
    page, _ = page_of(analogy, out=tmp_path)
    document, console = visit(page)
    assert "predictions hold" in document and console == []
