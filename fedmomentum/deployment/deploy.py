"""Send a scenario to a federation of real clients, follow it, and keep what it gives in a run folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fedmomentum import scenario as scenarios
from fedmomentum.course import Result
from fedmomentum.deployment import flwr_command, wire
from fedmomentum.deployment.appdir import app_name, write_app
from fedmomentum.deployment.settings import Settings
from fedmomentum.errors import UserError
from fedmomentum.events import Listener
from fedmomentum.runs import Recorder, RunFolder, load_run, provenance
from fedmomentum.runs.atomic import read_json, write_json
from fedmomentum.runs.folder import DEPLOYMENT, RESOLVED
from fedmomentum.runs.resuming import claim, release, same_science

if TYPE_CHECKING:
    from fedmomentum.scenario import LoadedScenario

PATIENCE = 120.0
"""Seconds for which a SuperLink may be away while a run is followed."""


@dataclass
class Following:
    """What has been heard of a run so far.

    Args:
        folder: the run folder on this machine.
        listeners: are told of every event.
        say: is told, in a sentence, what happens to clients.
    """

    folder: RunFolder
    result: Result
    listeners: Sequence[Listener]
    say: Callable[[str], None]
    done: dict[str, Any] | None = None
    last: list[str] = field(default_factory=list)
    """The last lines of the log that were no events: they say why a server app that could not even begin did not."""
    stays: dict[str, str] = field(default_factory=dict)
    """Arm -> where on the server its final model is, which was too large to be sent."""
    _next: int = 0
    _models: dict[str, wire.Assembled] = field(default_factory=dict)

    def hear(self, line: str) -> None:
        """Take a line of the log; one that was heard before (the log is read again after a lost connection) is not."""
        event = wire.read_event(line)
        if event is None:
            self.last = [*self.last[-30:], line.rstrip()]
            return
        if event["number"] < self._next:
            return
        self._next = event["number"] + 1
        kind = event["kind"]
        if kind == "say":
            self.say(event["text"])
        elif kind == "stays":
            self.stays[event["arm"]] = event["path"]
            self.say(event["text"])
        elif kind == "done":
            self.done = event
        elif kind == "model":
            if (data := self._models.setdefault(event["arm"], wire.Assembled()).add(event)) is not None:
                wire.save_model(self.folder, event["arm"], data)
        elif kind == "start":
            started = wire.as_start(event["event"])
            rows = self.result.arms.setdefault(started.arm, [])
            if started.first_round > 1:
                kept = load_run(self.folder.arm(started.arm).path).metrics
                rows += [row for row in kept if row["round"] < started.first_round]
            for listener in self.listeners:
                listener.start(started)
        elif kind == "round":
            ended = wire.as_round(event["event"])
            self.result.arms.setdefault(ended.arm, []).append(dict(ended.metrics))
            for listener in self.listeners:
                listener.round_end(ended)
        elif kind == "end":
            for listener in self.listeners:
                listener.end(wire.as_end(event["event"]))


def deploy(
    loaded: LoadedScenario,
    federation: str,
    *,
    settings: Settings | None = None,
    out: str | Path = "runs",
    listeners: Sequence[Listener] = (),
    say: Callable[[str], None] = print,
) -> Result:
    """Run a scenario on a federation.

    Args:
        loaded: the scenario.
        federation: name of the connection to its SuperLink, in Flower's configuration.
        settings: of the run config.
        out: folder of all runs.
        listeners: hear of every round, as in a simulation.
        say: hears of clients that come and go.

    Raises:
        UserError: the federation cannot be reached, or refuses the run.
    """
    folder = RunFolder.create(
        out, loaded.scenario.name, scenario_text=loaded.text, resolved=loaded.resolved(), hash=loaded.hash
    )
    folder.write_provenance(provenance(data={}))
    run = "/".join(folder.path.parts[-2:])
    try:
        return _carry_out(loaded, federation, replace(settings or Settings(), run=run), folder, listeners, say)
    except UserError:
        if not (folder.path / DEPLOYMENT).exists():  # nothing was started, so there is nothing to keep
            shutil.rmtree(folder.path)
        raise


def resume(
    path: str | Path,
    federation: str | None = None,
    *,
    overrides: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    listeners: Sequence[Listener] = (),
    say: Callable[[str], None] = print,
) -> Result:
    """Go on with a deployed run from the last checkpoint that its server kept.

    Args:
        path: its run folder on this machine.
        federation: name of the connection; by default that of the run.
        overrides: may change ``rounds``.
        changes: settings of the run config that are to be other ones from now on.
        listeners: hear of every round.
        say: hears of clients that come and go.

    Raises:
        UserError: it is no folder of a deployed run, or an override changes what the run is about.
    """
    folder = RunFolder(Path(path))
    was = load_run(folder.path)
    if not (folder.path / DEPLOYMENT).exists() or not (folder.path / RESOLVED).exists():
        raise UserError(f"{path}: not the folder of a deployed run (it has no {DEPLOYMENT})")
    known = read_json(folder.path / DEPLOYMENT)
    loaded = scenarios.load(folder.path / RESOLVED, list(overrides))
    same_science(was, loaded.resolved())
    claim(folder, {}, loaded.resolved())
    settings = replace(Settings.read(known["config"]), resume=True, **(changes or {}))
    return _carry_out(loaded, federation or str(known["federation"]), settings, folder, listeners, say)


def _carry_out(
    loaded: LoadedScenario,
    federation: str,
    settings: Settings,
    folder: RunFolder,
    listeners: Sequence[Listener],
    say: Callable[[str], None],
) -> Result:
    result = Result(loaded.scenario.name, folder.path)
    following = Following(folder, result, [Recorder(folder), *listeners], say)
    status = "failed"
    try:
        with TemporaryDirectory(prefix="fedmomentum-") as scratch:
            app = write_app(loaded, Path(scratch) / app_name(loaded.scenario.name), settings)
            run = flwr_command.submit(app, federation)
        facts = {"federation": federation, "flower_run": str(run), "config": settings.config()}
        write_json(folder.path / DEPLOYMENT, facts)
        try:
            ended, details = _follow(run, federation, following)
        except KeyboardInterrupt:
            flwr_command.stop(run, federation)
            status = "interrupted"
        else:
            status = _status(following, ended, details)
            if following.stays:
                write_json(folder.path / DEPLOYMENT, {**facts, "models_on_server": following.stays})
            if status == "failed" and result.metrics:
                result.warnings.append(f"go on with: fedmomentum deploy --resume {folder.path}")
            _finish(loaded, following, status)
        result.status = status
    finally:
        rounds = max((int(row["round"]) for rows in result.arms.values() for row in rows), default=0)
        folder.set_status(status, rounds_done=rounds)
        release(folder)
    return result


def _follow(run: int, federation: str, following: Following) -> tuple[str, str]:
    """Read the log until the run has ended; a SuperLink that goes away for a while does not matter."""
    lost: float | None = None
    while True:
        with flwr_command.Log(run, federation) as lines:
            for line in lines:
                following.hear(line)
        try:
            status, details = flwr_command.status(run, federation)
            lost = None
        except UserError as error:
            lost = lost or time.monotonic()
            if time.monotonic() - lost > PATIENCE:
                raise UserError(f"{error}. The run may go on there; nothing is known of it since") from None
        else:
            if status.startswith("finished"):
                return status, details
        time.sleep(1.0)


def _status(following: Following, ended: str, details: str) -> str:
    """Say what became of the run, in our words; Flower's own command calls every end a success."""
    result, done = following.result, following.done
    if done is not None:
        result.warnings += [str(text) for text in done["warnings"]]
        if done["message"] and done["message"] not in result.warnings:
            result.warnings.append(str(done["message"]))
        return str(done["status"]) if ended == "finished:completed" else "failed"
    said = f"the server app ended without a result ({ended}{': ' + details if details else ''})"
    result.warnings += [said, *_reasons(following.last)]
    return "failed"


def _reasons(lines: Sequence[str]) -> list[str]:
    """Give the last lines that say what an error was; boxes around the word alone do not."""
    return [line for line in lines if "error" in line.lower() and "─" not in line][-3:]


def _finish(loaded: LoadedScenario, following: Following, status: str) -> None:
    """Draw the pictures and check the claims, as a simulation does."""
    from fedmomentum.report import draw_outcome, draw_probes

    result, folder = following.result, following.folder
    run = load_run(folder.path)
    draw_outcome(run, loaded, result.arms, folder.plots)
    draw_probes(run, folder=folder.plots, question=loaded.scenario.question or result.name)
    if status == "finished":
        from dataclasses import asdict

        result.expectations = scenarios.check_expectations(loaded, result.arms)
        folder.set_status(expectations=[asdict(claim) for claim in result.expectations] or None)
