"""Rules of the repository that no linter can say."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def imported(path: Path) -> set[str]:
    """Name the top-level packages that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def library() -> list[Path]:
    return [path for folder in ("fedmomentum", "strategies", "clients") for path in (ROOT / folder).rglob("*.py")]


def test_ray_is_imported_by_the_engines_ray_modules_alone() -> None:
    importers = {path.relative_to(ROOT) for path in library() if "ray" in imported(path)}
    assert {path for path in importers if not path.match("fedmomentum/simulation/ray_*.py")} == set()


def test_local_training_runs_where_neither_flower_nor_ray_is_installed() -> None:
    importers = {path.name for path in (ROOT / "clients").rglob("*.py") if imported(path) & {"flwr", "ray"}}
    assert importers <= {"app.py"}


@pytest.mark.parametrize("name", ["strategies", "clients", "scenarios"])
def test_ruff_refuses_a_bare_import_of_a_folder(name: str) -> None:
    def rules(code: str) -> str:
        command = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--output-format", "concise", "-"]
        return subprocess.run(command, cwd=ROOT, input=code, capture_output=True, text=True, timeout=60).stdout

    assert "TID251" in rules(f"import {name}\n")
    assert "TID251" in rules(f"from {name} import x\n")
    assert "TID251" not in rules(f"import fedmomentum.{name}\n")


def committed() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60
    )
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


EVERYWHERE = r"(?:usr|etc|srv|run|tmp|dev|proc|sys|bin|var|nonexistent|nowhere|absent|path|no|home/ada)"
ONE_MACHINES_PATH = re.compile(
    rf"""(?:^|[\s"'`=(\[])(/(?!{EVERYWHERE}\b)[A-Za-z][\w.-]*/[\w.-]+[\w./-]*)""", re.MULTILINE
)
"""An absolute path outside of what every system has, and of names that the tests make up (`ada` is nobody)."""


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("open('/home/me/data.csv')", "/home/me/data.csv"),
        ("root = /Users/me/x", "/Users/me/x"),
        ("see /usr/share/datasets/fashion-mnist", None),
        ("#!/usr/bin/env bash", None),
        ("https://example.org/a/b", None),
        ("clients/app.py and a /b", None),
    ],
)
def test_the_pattern_of_a_machines_own_path(text: str, path: str | None) -> None:
    match = ONE_MACHINES_PATH.search(text)
    assert (match and match.group(1)) == path


def test_no_committed_file_names_a_path_of_one_machine() -> None:
    found = []
    for path in committed():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        if path != Path(__file__):
            found += [f"{path.relative_to(ROOT)}: {match}" for match in ONE_MACHINES_PATH.findall(text)]
    assert not found


def test_no_committed_file_is_over_a_megabyte() -> None:
    assert [path for path in committed() if path.stat().st_size > 2**20] == []


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"==[\w.]+", str(requirement.specifier)) for requirement in requirements)
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in requirements}


def test_every_dependency_is_pinned_inside_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = map(Requirement, project["dependencies"] + project["optional-dependencies"]["dev"])
    pinned = pins()
    wrong = [str(r) for r in wanted if not r.specifier.contains(pinned.get(canonicalize_name(r.name), "0"))]
    assert not wrong


def test_what_dependencies_pull_in_is_pinned_too() -> None:
    pinned, missing = pins(), set()
    queue, seen = [("fedmomentum", frozenset({"dev"}))], set()
    while queue:
        name, extras = queue.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            wanted = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}
            )
            if wanted:
                child = canonicalize_name(requirement.name)
                missing |= {child} - pinned.keys() - {"pip"}
                if child in pinned:
                    queue.append((child, frozenset(requirement.extras)))
    # A CUDA build of torch names its own libraries, which the pins of a CPU build cannot.
    assert {name for name in missing if not name.startswith(("nvidia-", "triton", "cuda-"))} == set()
