"""A Flower App for an installed package: a folder with a pyproject.toml and a scenario, and no code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from fedmomentum import __version__
from fedmomentum.deployment.settings import Settings
from fedmomentum.errors import UserError
from fedmomentum.scenario import LoadedScenario, as_yaml

SCENARIO = "scenario.yaml"

_PROJECT = """\
# A Flower App around a fedmomentum scenario, written by `fedmomentum app`. Run it with `flwr run .`; to follow a run
# and keep what it gives, use `fedmomentum deploy`. Every machine needs fedmomentum {version}: the code does not travel.
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "1.0.0"
description = {description}
license = "Apache-2.0"
dependencies = []  # unless told not to, Flower downloads what stands here for each run; every machine has it already

[tool.setuptools]
packages = []

[tool.flwr.app]
publisher = "fedmomentum"
fab-include = ["{scenario}"]

[tool.flwr.app.components]
serverapp = "fedmomentum.deployment.serverapp:app"
clientapp = "fedmomentum.deployment.clientapp:app"

# docs/deploy.md says what each key means. To change one: flwr run . --run-config "clients=3"
[tool.flwr.app.config]
{config}
"""


def write_app(loaded: LoadedScenario, folder: Path, settings: Settings) -> Path:
    """Write the Flower App of a scenario into a folder; give the folder.

    Args:
        loaded: the scenario; it is written with every default filled in.
        folder: is made; must not hold anything yet.
        settings: of the run config; the scenario in them is replaced.

    Raises:
        UserError: the folder is not empty, or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"{folder}: is not empty; give a folder that is not there yet")
        (folder / SCENARIO).write_text(as_yaml(loaded.resolved()), encoding="utf-8")
        (folder / "pyproject.toml").write_text(_project(loaded, settings), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from error
    return folder


def _project(loaded: LoadedScenario, settings: Settings) -> str:
    values: dict[str, Any] = {f.name.replace("_", "-"): f.default for f in fields(Settings)}
    values |= settings.config() | {"scenario": SCENARIO}
    question = loaded.scenario.question or f"the scenario {loaded.scenario.name}"
    return _PROJECT.format(
        name=app_name(loaded.scenario.name),
        version=__version__,
        description=json.dumps(" ".join(question.split()), ensure_ascii=False),
        scenario=SCENARIO,
        config=toml(values),
    )


def app_name(name: str) -> str:
    """Give a name that Flower takes for an app: a letter, then letters, digits and hyphens, 32 in all."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
    return (plain if plain[:1].isalpha() else f"run-{plain}")[:32].rstrip("-") or "scenario"


def toml(values: Mapping[str, str | int | float | bool]) -> str:
    """Give flat settings as lines of TOML."""
    # texts, numbers and booleans are written in TOML as in JSON
    return "\n".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
