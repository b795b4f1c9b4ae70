"""The wheel holds every file of the four source folders but what is compiled, and works where no checkout is near."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = {
    "fedmomentum": "fedmomentum",
    "strategies": "fedmomentum/strategies",
    "clients": "fedmomentum/clients",
    "scenarios": "fedmomentum/scenarios",
}
"""Where a folder of the repository stands in the wheel."""
COMPILED = {".c", ".h", ".so"}
"""What is compiled, and what comes of it where the package is installed from a checkout."""


def source_files(root: Path) -> set[str]:
    """Name the files of the package as the wheel should."""
    return {
        f"{place}/{path.relative_to(root / folder).as_posix()}"
        for folder, place in PLACES.items()
        for path in (root / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in COMPILED
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # From a copy: setuptools packs whatever an earlier build left in build/lib.
    copy = tmp_path_factory.mktemp("source")
    for folder in PLACES:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    target = tmp_path_factory.mktemp("wheel")
    pip(["wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(target), str(copy)])
    [found] = target.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    pip(["install", "--no-deps", "--no-index", "--no-compile", "--target", str(target), str(wheel)])
    return target


def pip(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_every_source_file_is_in_the_wheel_and_nothing_else(wheel: Path) -> None:
    packed = {name for name in names(wheel) if ".dist-info/" not in name}
    compiled = {name for name in packed if name.startswith("fedmomentum/clients/_native.")}
    assert packed - compiled == source_files(ROOT)
    assert len(compiled) == (1 if any(map(shutil.which, ("cc", "gcc", "clang"))) else 0)
    assert {"fedmomentum/py.typed", "fedmomentum/strategies/__init__.py", "fedmomentum/scenarios/__init__.py"} <= packed


def test_the_top_level_is_one_package(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in names(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"fedmomentum"}
    assert len(tops) == 2


def test_the_licence_and_the_command_come_along(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [licence] = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
        [commands] = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
        assert "fedmomentum = fedmomentum.cli:main" in archive.read(commands).decode()
        assert "License-Expression: Apache-2.0" in archive.read(metadata).decode()


def test_it_works_away_from_any_checkout(site: Path, tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
import importlib.resources, json
import fedmomentum, fedmomentum.strategies, fedmomentum.clients, fedmomentum.scenarios
modules = [fedmomentum, fedmomentum.strategies, fedmomentum.clients, fedmomentum.scenarios]
shipped = importlib.resources.files(fedmomentum.scenarios).iterdir()
print(json.dumps({{
    "files": [module.__file__ for module in modules],
    "path": list(fedmomentum.__path__),
    "yaml": sorted(entry.name for entry in shipped if entry.name.endswith(".yaml")),
}}))
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert all(Path(file).is_relative_to(site) for file in seen["files"])
    assert seen["path"] == [str(site / "fedmomentum")], "the hook for checkouts must do nothing in a wheel"
    assert seen["yaml"] == sorted(path.name for path in (ROOT / "scenarios").glob("*.yaml"))
