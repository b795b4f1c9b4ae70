"""The notebook of the documentation: kept clean, and every cell runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOTEBOOK = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]

CHECK = """
assert result.status == "finished"
assert abs(accuracy - recorded) < 1e-9, (accuracy, recorded)
assert sorted(curves.columns) == ["FedAvg", "FedAvgM"] and len(curves) == 31
assert len(axes.lines) == 2
assert visits.sum() == 300
print("all cells ran")
"""


def test_it_is_stored_without_what_it_printed() -> None:
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])


def test_every_cell_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "\n\n".join([*CODE, CHECK])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all cells ran\n")
    assert list(tmp_path.glob("runs/quickstart/*/plots/accuracy.svg"))
