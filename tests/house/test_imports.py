"""What an import costs: which heavy packages each part of the library may load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "flwr", "pydantic", "matplotlib", "scipy", "sklearn", "pandas")


def fresh(code: str, cwd: Path) -> str:
    """Run code in a new interpreter that finds this checkout's package, and give what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(code: str, cwd: Path) -> set[str]:
    """Name the heavy packages that code loads."""
    report = f"import sys, json; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    return set(json.loads(fresh(f"{code}\n{report}", cwd).splitlines()[-1]))


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import fedmomentum", set()),
        ("import fedmomentum.cli", set()),
        ("import fedmomentum.runs", set()),
        ("import fedmomentum.report", set()),
        ("import fedmomentum.streams, fedmomentum.events, fedmomentum.protocol, fedmomentum.errors", set()),
        ("import fedmomentum.scenario", {"pydantic"}),
        ("import fedmomentum.data", {"scipy"}),
        ("import fedmomentum.models", {"torch"}),
        ("import fedmomentum.optim", {"torch", "scipy"}),
    ],
)
def test_an_import_loads_no_more_than_it_needs(code: str, allowed: set[str], tmp_path: Path) -> None:
    assert loaded(code, tmp_path) <= allowed


def test_help_loads_no_heavy_package(tmp_path: Path) -> None:
    code = """
import contextlib, io
from fedmomentum.cli import main
with contextlib.redirect_stdout(io.StringIO()) as shown:
    try:
        status = main(["--help"])
    except SystemExit as stop:
        status = stop.code
assert not status, status
assert "usage" in shown.getvalue().lower()
"""
    assert loaded(code, tmp_path) == set()


def test_a_checkout_has_one_copy_of_each_module(tmp_path: Path) -> None:
    """The hook finds the folders beside the package, from any working folder, and under one name only."""
    code = """
import fedmomentum.strategies, fedmomentum.clients, fedmomentum.scenarios, json, sys
modules = [fedmomentum, fedmomentum.strategies, fedmomentum.clients, fedmomentum.scenarios]
assert not {"strategies", "clients", "scenarios"} & sys.modules.keys()
print(json.dumps([module.__file__ for module in modules]))
"""
    files = json.loads(fresh(code, tmp_path))
    folders = ("fedmomentum", "strategies", "clients", "scenarios")
    assert [Path(file) for file in files] == [ROOT / folder / "__init__.py" for folder in folders]
