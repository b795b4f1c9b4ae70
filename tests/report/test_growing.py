from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fedmomentum.report import growing
from fedmomentum.report.growing import Growing
from fedmomentum.runs.atomic import append_rows, keep_rows


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_rows_come_once_each_and_only_when_whole(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "CHUNK", chunk)
    path = tmp_path / "metrics.jsonl"
    file = Growing(path)
    assert list(file.read()) == []
    written = "".join(json.dumps({"round": r, "note": "é\n"}) + "\n" for r in range(5)).encode()
    seen = []
    for stop in range(0, len(written) + 1, 3):
        path.write_bytes(written[:stop])
        rows = list(file.read())
        seen += [row["round"] for row in rows]
        assert len(seen) == written[:stop].count(b"\n")
    path.write_bytes(written)
    seen += [row["round"] for row in file.read()]
    assert seen == [0, 1, 2, 3, 4]
    assert not file.restarted and file.damaged == 0


def test_null_is_nan_and_what_is_no_object_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b'{"x": null}\n\n[1]\n\xff\xfe\n{"x": 2}\n' + b"[" * 100_000 + b"\n")
    file = Growing(path)
    first, second = file.read()
    assert math.isnan(first["x"]) and second == {"x": 2}
    assert file.damaged == 4


def test_a_file_whose_rows_were_dropped_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    append_rows(path, [{"round": r} for r in range(6)])
    file = Growing(path)
    assert len(list(file.read())) == 6
    keep_rows(path, lambda row: row["round"] < 4)
    append_rows(path, [{"round": 4, "again": True}, {"round": 5, "again": True}, {"round": 6}])
    rows = list(file.read())
    assert file.restarted
    assert [row["round"] for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    assert list(file.read()) == [] and not file.restarted


def test_a_file_that_was_cut_off_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text('{"round": 1}\n{"round": 2}\n')
    file = Growing(path)
    assert len(list(file.read())) == 2
    path.write_text('{"round": 3}\n')
    assert [row["round"] for row in file.read()] == [3]
    assert file.restarted
