from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmomentum.errors import UserError
from fedmomentum.runs.atomic import (
    append_columns,
    append_rows,
    columns,
    keep_rows,
    read_json,
    read_rows,
    write_json,
    write_text,
)


def raiser(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "status.json"
    write_text(path, "old")
    monkeypatch.setattr(os, "replace", raiser(error))
    with pytest.raises(type(error)):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]


def test_a_file_system_without_fsync_is_no_reason_to_lose_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", raiser(OSError(22, "Invalid argument")))
    write_text(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "new"


def test_the_new_content_is_on_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def note(step: str) -> None:
        real = getattr(os, step)

        def call(*args: object) -> object:
            order.append(step)
            return real(*args)

        monkeypatch.setattr(os, step, call)

    note("replace")
    note("fsync")
    write_text(tmp_path / "x", "1")
    assert order[:2] == ["fsync", "replace"]


def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_rows_round_trip_and_what_is_not_finite_is_valid_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_rows(path, [{"round": 1, "loss": 0.1 + 0.2}, {"round": 2, "loss": math.nan, "name": "ö"}])
    append_rows(path, [{"round": np.int64(3), "loss": np.float32(0.5), "inf": -math.inf}])
    append_rows(path, [])
    rows = read_rows(path)
    assert rows[0] == {"round": 1, "loss": 0.1 + 0.2}
    assert math.isnan(rows[1]["loss"]) and rows[1]["name"] == "ö"
    assert rows[2]["round"] == 3 and rows[2]["loss"] == 0.5 and math.isnan(rows[2]["inf"])

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize("torn", ['{"round": 3, "lo', '{"round": 3}', "{", "\x00\x00"])
def test_a_torn_last_line_is_left_out_and_then_cut_off(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    append_rows(path, [{"round": 1}, {"round": 2}])
    path.write_bytes(path.read_bytes() + torn.encode())
    assert [row["round"] for row in read_rows(path)] == [1, 2]
    append_rows(path, [{"round": 3, "loss": 0.5}])
    assert read_rows(path) == [{"round": 1}, {"round": 2}, {"round": 3, "loss": 0.5}]


def test_a_file_that_is_one_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"round"')
    assert read_rows(path) == []
    append_rows(path, [{"round": 1}])
    assert read_rows(path) == [{"round": 1}]


@pytest.mark.parametrize("bad", ["nonsense", "3", ""])
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"round": 1}}\n{bad}\n{{"round": 3}}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: "):
        read_rows(path)


def test_keep_rows_drops_and_leaves_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [{"round": n} for n in (1, 2, 3)])
    before = path.stat().st_ino
    keep_rows(path, lambda row: True)
    assert path.stat().st_ino == before
    keep_rows(path, lambda row: row["round"] < 3)
    assert read_rows(path) == [{"round": 1}, {"round": 2}]
    keep_rows(tmp_path / "absent.jsonl", lambda row: False)
    assert not (tmp_path / "absent.jsonl").exists()


def test_columns_fill_gaps_with_nan() -> None:
    table = columns([{"round": 1}, {"round": 2, "loss": 0.5}])
    assert table["round"] == [1, 2]
    assert math.isnan(table["loss"][0]) and table["loss"][1] == 0.5
    assert columns([]) == {}


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_json(path) == {}
    write_json(path, {"a": math.inf, "b": (1, np.arange(2)), "path": tmp_path})
    assert read_json(path) == {"a": None, "b": [1, [0, 1]], "path": str(tmp_path)}
    for content in ("{", "[1]"):
        path.write_text(content)
        with pytest.raises(UserError, match=r"x\.json"):
            read_json(path)


@given(
    st.dictionaries(st.text(max_size=5), st.lists(st.floats() | st.integers(), min_size=3, max_size=3), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers() | st.floats() | st.text(max_size=5), max_size=2),
)
def test_a_table_is_written_as_its_rows_are(table: dict[str, list[float]], fixed: dict[str, object]) -> None:
    fixed = {name: value for name, value in fixed.items() if name not in table}
    with TemporaryDirectory() as folder:
        by_column, by_row = Path(folder) / "columns", Path(folder) / "rows"
        for _ in range(2):
            append_columns(by_column, fixed, table)
            rows = zip(*table.values(), strict=True)
            append_rows(by_row, ({**fixed, **dict(zip(table, row, strict=True))} for row in rows))
        assert by_column.exists() == by_row.exists() == bool(table)
        assert not table or by_column.read_bytes() == by_row.read_bytes()


def test_a_table_of_numpy_columns_is_written_too_and_a_ragged_one_is_refused(tmp_path: Path) -> None:
    table = {"client": np.arange(2), "loss": np.array([0.5, math.nan], np.float32), "x": [np.float64(0.1), np.int64(2)]}
    append_columns(tmp_path / "rows", {"round": 7}, table)
    rows = read_rows(tmp_path / "rows")
    assert [list(row.values())[:2] for row in rows] == [[7, 0], [7, 1]]
    assert rows[0] == {"round": 7, "client": 0, "loss": 0.5, "x": 0.1} and math.isnan(rows[1]["loss"])
    with pytest.raises(ValueError):
        append_columns(tmp_path / "rows", {"round": 8}, {"client": [0, 1], "loss": [0.5]})
    assert len(read_rows(tmp_path / "rows")) == 2
