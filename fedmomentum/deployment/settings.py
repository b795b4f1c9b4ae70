"""What a deployed run is told: Flower's run config, as both halves of the app read it."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmomentum import scenario as scenarios
from fedmomentum.errors import UserError

if TYPE_CHECKING:
    from fedmomentum.scenario import LoadedScenario

PLACE = "FEDMOMENTUM_SERVER_RUNS"
"""Environment variable: the folder in which a server keeps the folders of deployed runs."""

_IDENTITY = re.compile(r"[\w.=-]+/[\w.=-]+")


@dataclass(frozen=True)
class Settings:
    """The run config: keys are these names with ``-`` for ``_``; every value is text, a number or a boolean.

    Args:
        scenario: a YAML file of the Flower App, or the name of a scenario that comes with the package.
        set: changes to it, as ``--set`` takes them, separated by blanks: ``rounds=3 model.hidden=[8]``.
        run: name of the run folder, ``name/time-hash``; empty for a new one.
        resume: go on with the run of that name.
        clients: how many clients have to join before the first round; 0: as many as the scenario has.
        least: clients without which no later round begins.
        node_timeout: seconds to wait for them.
        round_timeout: seconds after which a round goes on with the replies that are there.
        exclude_after: refused replies after which a client is left out for good; 0: never.
        send_model: MiB up to which the final model is sent to whoever follows the run.

    Raises:
        UserError: a value is not of its kind or out of range.
    """

    scenario: str = "two_clients"
    set: str = ""
    run: str = ""
    resume: bool = False
    clients: int = 0
    least: int = 1
    node_timeout: float = 120.0
    round_timeout: float = 600.0
    exclude_after: int = 3
    send_model: float = 64.0

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("clients", "exclude_after", "send_model"):
            if getattr(self, name) < 0:
                raise UserError(f"run config: {_key(name)} must be at least 0, not {getattr(self, name)}")
        for name in ("least", "node_timeout", "round_timeout"):
            if not getattr(self, name) > 0:
                raise UserError(f"run config: {_key(name)} must be above 0, not {getattr(self, name)}")
        if self.run and (not _IDENTITY.fullmatch(self.run) or ".." in self.run):
            raise UserError(f"run config: run must be the name of a run folder, name/time-hash, not '{self.run}'")
        if self.resume and not self.run:
            raise UserError("run config: resume needs the run to go on with")

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Settings:
        """Read a run config; keys of others are left alone.

        Raises:
            UserError: a value is not of its kind or out of range.
        """
        found: dict[str, Any] = {}
        for field in fields(cls):
            if (value := config.get(_key(field.name))) is None:
                continue
            kind = type(field.default)
            if kind is float and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            if type(value) is not kind:
                raise UserError(f"run config: {_key(field.name)} must be a {kind.__name__}, not {value!r}")
            found[field.name] = value
        return cls(**found)

    def config(self) -> dict[str, str | int | float | bool]:
        """Give the run config that reads back as these settings, without defaults."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {_key(f.name): values[f.name] for f in fields(self) if values[f.name] != f.default}

    def load(self) -> LoadedScenario:
        """Load the scenario: a file of the Flower App that this process was started for, else one of the package.

        Raises:
            ScenarioError: it is not as it should be.
        """
        path = Path(self.scenario)
        if path.suffix in (".yaml", ".yml") and not path.is_absolute():
            # Flower puts the folder of the app that it loads on the path of modules
            path = next((at for place in sys.path if (at := Path(place or ".") / path).is_file()), path)
        return scenarios.load(path, shlex.split(self.set))

    def folder(self) -> Path:
        """Give the folder in which this server keeps the folders of deployed runs."""
        if place := os.environ.get(PLACE):
            return Path(place)
        return Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr") / "fedmomentum"


def _key(name: str) -> str:
    return name.replace("_", "-")
