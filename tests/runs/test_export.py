from __future__ import annotations

import builtins
import io
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedmomentum.errors import UserError
from fedmomentum.runs import load_run
from fedmomentum.runs.export import export, write_csv
from tests.runs.conftest import Store

HOSTILE = 'a,"b"\n=c (ö)'
ROWS: list[dict[str, Any]] = [
    {"round": 0, "accuracy": 0.1 + 0.2},
    {"round": 1, "accuracy": math.nan, "loss": 1e-300, "replies": 3},
    {"round": 2, "loss": 1 / 3, "note": "=1+1"},
]


def as_text(path: Path, table: str = "metrics") -> str:
    stream = io.StringIO()
    write_csv(load_run(path), table, stream)
    return stream.getvalue()


def test_csv_reads_back_equal(store: Store) -> None:
    path = store({HOSTILE: ROWS, "B": ROWS[:1]})
    assert "nan" not in as_text(path).lower()
    read = pd.read_csv(io.StringIO(as_text(path)))
    pd.testing.assert_frame_equal(read, pd.DataFrame(load_run(path).metrics))
    assert read.arm.tolist() == [HOSTILE] * 3 + ["B"]
    assert read.loss[2] == 1 / 3 and read.accuracy.isna().tolist() == [False, True, True, False]


def test_csv_of_the_other_tables(store: Store) -> None:
    path = store({"": [0.1, 0.2]})
    assert as_text(path, "clients") == "round,client,num-examples\n1,4.0,10.0\n1,7.0,20.0\n"
    assert as_text(path, "failures") == ""
    with pytest.raises(UserError, match="no table 'models'; a run has metrics, clients, failures"):
        as_text(path, "models")


def test_pandas(store: Store) -> None:
    run = load_run(store({"A": ROWS, "B": [0.1, 0.9]}))
    frame = run.to_pandas()
    assert list(frame.columns[:3]) == ["arm", "round", "accuracy"]
    assert frame.groupby("arm").accuracy.max().to_dict() == {"A": 0.1 + 0.2, "B": 0.9}
    assert len(run.to_pandas("clients")) == 6
    assert run.to_pandas("failures").empty


def test_polars_and_parquet(store: Store, tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    late = [{"round": n, "whole_then_not": n if n < 150 else n + 0.5} for n in range(200)]
    run = load_run(store({HOSTILE: ROWS, "B": late}))
    frame = run.to_polars()
    assert frame["arm"].to_list()[:3] == [HOSTILE] * 3
    assert frame["loss"].to_list()[:3] == [None, 1e-300, 1 / 3]
    assert frame["whole_then_not"].to_list()[-1] == 199.5
    assert run.to_polars("failures").is_empty()
    path = export(run, "metrics", tmp_path / "m.parquet")
    assert polars.read_parquet(path).equals(frame)


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_missing_package_is_named_with_its_extra(store: Store, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == package:
            raise ImportError(name)
        return real(name, *args)

    run = load_run(store({"": [0.1]}))
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=rf"needs {package}, .*pip install 'fedmomentum\[{package}\]'"):
        getattr(run, f"to_{package}")()


def test_files(store: Store, tmp_path: Path) -> None:
    run = load_run(store({"": [0.1, 0.2]}))
    path = export(run, "metrics", tmp_path / "m.csv")
    assert path.read_text() == as_text(run.path)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["m.csv"]
    for place, message in (
        (tmp_path / "m.xlsx", r"ends in \.csv or \.parquet"),
        (tmp_path / "absent" / "m.csv", "cannot be written: No such file"),
    ):
        with pytest.raises(UserError, match=message):
            export(run, "metrics", place)
    with pytest.raises(UserError, match="the table of failures has no rows"):
        export(run, "failures", tmp_path / "f.csv")
