from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedmomentum.cli import main
from fedmomentum.errors import UserError
from fedmomentum.report.comparison import draw_comparison
from fedmomentum.report.numbers import size
from fedmomentum.runs import load_run
from fedmomentum.runs.compare import compare
from tests.runs.conftest import Store

Capture = pytest.CaptureFixture[str]
ARMS = {"arms": {"FedAvg": {"x": 1}, "FedAvgM": {"x": 2}}, "sweep": {"seeds": 2}, "rounds": 2}
CURVES = {
    "FedAvg,seed=0": [0.1, 0.3, 0.5],
    "FedAvg,seed=1": [0.1, 0.4, 0.7],
    "FedAvgM,seed=0": [0.1, 0.7, 0.8],
    "FedAvgM,seed=1": [0.1, 0.7, 0.8],
}


def test_the_table(store: Store, capsys: Capture, tmp_path: Path) -> None:
    path = store(CURVES, ARMS)
    assert main(["compare", str(path), "--target", "0.6", "--plots", str(tmp_path / "p")]) == 0
    out = capsys.readouterr().out
    half = 0.1 * math.tan(math.pi * 0.475)  # t with one degree of freedom; the deviation over sqrt 2 is 0.1
    wide = f"± {half:.3f}"
    lines = out.splitlines()[:3]
    assert [re.split(r" {2,}", line) for line in lines] == [
        ["", "seeds", "accuracy", "best", "vs FedAvg", "rounds to 0.6", "sent", "time", "reached"],
        ["FedAvg", "2", f"0.600 {wide}", f"0.600 {wide}", "never", "-", "-", "1/2"],
        ["FedAvgM", "2", "0.800 ± 0.000", "0.800 ± 0.000", f"+0.200 {wide}", "1", "150 B", "2.0 s", "2/2"],
    ]
    assert len({len(line) for line in lines}) == 1
    assert "95 % t interval over seeds, of differences paired by seed" in out
    assert f"picture: {tmp_path / 'p' / 'compare-accuracy.png'}" in out
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["compare-accuracy.png", "compare-accuracy.svg"]


def test_json_and_csv_say_the_same(store: Store, capsys: Capture) -> None:
    path = str(store(CURVES, ARMS))
    assert main(["compare", path, "--target", "0.6", "--json", "--no-plots", "--confidence", "90"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["metric"], answer["confidence"], answer["baseline"], answer["pictures"]) == (
        "accuracy", 0.9, "FedAvg", [],
    )  # fmt: skip
    assert main(["compare", path, "--target", "0.6", "--csv", "--no-plots", "--confidence", "90"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    for row, candidate in zip(rows, answer["candidates"], strict=True):
        told = {key: "" if value is None else str(value) for key, value in candidate.items() if key != "runs"}
        assert row == told
    assert rows[0]["rounds_to_target"] == "" and rows[1]["rounds_to_target"] == "1.0"


def test_what_cannot_be_opened_is_told_at_once(store: Store, capsys: Capture, tmp_path: Path) -> None:
    path = store(CURVES, ARMS)
    words = ["compare", str(path), str(tmp_path / "nope"), str(path.parent), str(path / "scenario.yaml")]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and not (tmp_path / "plots").exists()
    assert captured.err.splitlines() == [
        f"{tmp_path / 'nope'}: no such folder",
        f"{path.parent}: not a run folder (it has no status.json); it holds 1 of them, the latest is {path}",
        f"{path / 'scenario.yaml'}: a file; expected a run folder",
    ]


def test_single_arms_can_be_compared(store: Store, capsys: Capture) -> None:
    path = store(CURVES, ARMS) / "arms"
    assert main(["compare", str(path / "FedAvgM-seed=1"), str(path / "FedAvg-seed=1"), "--no-plots"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^FedAvg +1 +0\.700 +0\.700 +-0\.100$", out, re.M) and "note: one seed each" in out


def test_the_picture_has_every_candidate_on_both_axes(store: Store, tmp_path: Path) -> None:
    found = compare([load_run(store(CURVES, ARMS))], target=0.6)
    svg, png = draw_comparison(found, folder=tmp_path, name="x", question="Which?")
    text = svg.read_text()
    for words in (">round<", "MB sent", "FedAvg  0.600", "FedAvgM  0.800", "Which?", "band: lowest to highest"):
        assert words in text
    first = png.read_bytes(), text
    draw_comparison(found, folder=tmp_path, name="x", question="Which?")
    assert (png.read_bytes(), svg.read_text()) == first, "the same numbers give the same bytes"
    rows = [{"round": n, "loss": 1.0 / (n + 1)} for n in range(3)]
    (svg, _) = draw_comparison(compare([load_run(store({"": rows}))]), folder=tmp_path)
    assert svg.name == "compare-loss.svg" and "MB sent" not in svg.read_text()
    lost = compare([load_run(store({"": [math.nan, math.nan]}))])
    assert draw_comparison(lost, folder=tmp_path / "none") == [] and not (tmp_path / "none").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"{tmp_path}/file: cannot be written: File exists"):
        draw_comparison(found, folder=tmp_path / "file")


def test_runs_list(store: Store, capsys: Capture) -> None:
    out = store(CURVES, ARMS).parents[1]
    store({"": [0.1, 0.3]}, name="other", status="failed", rounds=4)
    assert main(["runs", "list", "--out", str(out), "--sort", "accuracy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = ["run", "status", "leads", "accuracy", "best", "arms", "rounds", "started (UTC)", "took", "size"]
    assert re.split(r" {2,}", lines[0]) == heads
    assert re.search(r"/quick/\S+ +finished +FedAvgM,seed=0 +0\.800 +0\.800 +4 +8/8 +\d{4}-\d\d-\d\d \d", lines[1])
    assert re.search(r"/other/\S+ +failed +0\.300 +0\.300 +1 +1/4 ", lines[2])
    assert main(["runs", "list", "--out", str(out), "--json", "--filter", "status=failed"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["name"], one["rounds_done"], one["arms"]) == ("other", 1, {"": {"final": 0.3, "best": 0.3}})
    assert main(["runs", "list", "--out", str(out), "--filter", "name=x"]) == 0
    assert capsys.readouterr().out == f"no runs in {out} that match\n"
    assert main(["runs", "list", "--out", str(out), "--filter", "name"]) == 2
    assert "expected key=value" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main(["runs"])
    assert left.value.code == 2


def test_export(store: Store, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store({"": [0.1, 0.3]})
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(path), "--csv"]) == 0
    stem = f"quick-{path.name}"
    assert capsys.readouterr().out.splitlines() == [
        f"{stem}-metrics.csv  2 rows of metrics",
        f"{stem}-clients.csv  2 rows of clients",
    ]
    assert main(["export", str(path), "--csv", "--out", "t"]) == 0
    assert Path("t.csv").read_text() == Path(f"{stem}-metrics.csv").read_text()
    assert Path("t-clients.csv").read_text() == Path(f"{stem}-clients.csv").read_text()
    capsys.readouterr()
    assert main(["export", str(path), "--csv", "--table", "clients", "--out", "-"]) == 0
    assert capsys.readouterr().out == Path("t-clients.csv").read_text()
    for words, message in (
        (["--parquet", "--out", "-"], "only CSV can be printed"),
        (["--csv", "--out", "x.parquet"], "expected a name that ends in .csv"),
        (["--csv", "--table", "failures"], "the table of failures has no rows"),
    ):
        assert main(["export", str(path), *words]) == 2
        assert message in capsys.readouterr().err


def test_none_of_it_loads_torch(store: Store, tmp_path: Path) -> None:
    path = store(CURVES, ARMS)
    code = (
        "import sys; from fedmomentum.cli import main\n"
        f"main(['compare', {str(path)!r}, '--no-plots']); main(['runs', 'list', '--out', {str(path.parents[1])!r}])\n"
        f"main(['export', {str(path)!r}, '--csv', '--out', '-'])\n"
        "print('loaded:', sorted({'torch', 'flwr', 'ray', 'pydantic', 'matplotlib'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert out.endswith("loaded: []\n")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (9_940, "9.94 kB"), (9_960, "9.96 kB"), (999_400, "999 kB"),
     (999_600, "1 MB"), (2.5e9, "2.5 GB"), (3e15, "3000 TB")],
)  # fmt: skip
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text
