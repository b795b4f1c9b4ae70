"""The server half of the deployed app: our round loop, any strategy, real clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from fedmomentum.build import Federation
from fedmomentum.deployment.grid import DeployedGrid
from fedmomentum.deployment.roster import Roster
from fedmomentum.deployment.settings import Settings
from fedmomentum.deployment.terms import Terms
from fedmomentum.deployment.wire import Announcer
from fedmomentum.errors import UserError
from fedmomentum.events import End, RoundEnd, Start
from fedmomentum.interrupts import StopAfterRound
from fedmomentum.protocol import UNIFORM
from fedmomentum.running import Running
from fedmomentum.runs import RunFolder, load_run
from fedmomentum.runs.folder import RESOLVED
from fedmomentum.runs.resuming import same_science
from fedmomentum.scenario import FederatedScenario, LoadedScenario
from fedmomentum.strategies import FedAvg

app = ServerApp()


class DeployedRunFailed(RuntimeError):
    """The run did not come to its end; Flower then marks it as failed."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the scenario of the run config with the clients that join, and leave a run folder on the server.

    Raises:
        DeployedRunFailed: it did not come to its end.
    """
    announcer = Announcer()
    try:
        settings = Settings.read(context.run_config)
        loaded = kept(settings.load())
        announcer.followed = bool(settings.run)
        announcer.largest = int(settings.send_model * 2**20)
        result = Serving(loaded, settings, grid, announcer).go()
    except UserError as error:
        announcer.tell("done", status="failed", message=str(error), warnings=[], folder="")
        raise DeployedRunFailed(str(error)) from error
    message = "; ".join(result.warnings)
    announcer.tell(
        "done",
        status=result.status,
        message=message if result.status == "failed" else "",
        warnings=result.warnings,
        folder=str(result.folder),
        expectations=[asdict(claim) for claim in result.expectations],
    )
    if result.status != "finished":
        raise DeployedRunFailed(message or result.status)


def kept(loaded: LoadedScenario) -> LoadedScenario:
    """Refuse what only a simulation can do."""
    for arm in loaded.arms:
        if not isinstance(arm.scenario, FederatedScenario):
            raise UserError(f"{loaded.path}: only 'kind: federated' has clients, and this is '{arm.scenario.kind}'")
        participation = arm.scenario.participation
        for name, there in (("dropout", participation.dropout != 0.0), ("stragglers", participation.stragglers)):
            if there:
                raise UserError(
                    f"participation.{name}: real clients fail by themselves; leave it out: --set participation."
                    f"{name}={'0' if name == 'dropout' else 'null'}"
                )
    return loaded


class Serving(Running):
    """A run whose clients are real: the same loop, checkpoints and run folder, another grid."""

    simulates = False

    def __init__(self, loaded: LoadedScenario, settings: Settings, grid: Grid, announcer: Announcer) -> None:
        """Take the scenario, Flower's grid, and who is told of what happens."""
        self.settings, self.flower, self.announcer = settings, grid, announcer
        new = resumed = None
        if settings.run:
            place = settings.folder() / settings.run
            if settings.resume:
                resumed = _to_go_on(place, loaded)
            else:
                new = place
        super().__init__(
            loaded,
            [announcer, _Strikes(lambda: self._roster)],
            out=settings.folder(),
            folder=resumed,
            new=new,
            stop=StopAfterRound(signals=False),  # Flower's own handlers say goodbye to the SuperLink
            pictures=False,
        )
        self._roster: Roster | None = None

    def ray(self) -> list[Any]:
        """Start no Ray: clients train where they are."""
        return []

    def engine(self, federation: Federation, folder: RunFolder) -> tuple[Any, dict[str, object]]:
        """Give the grid of the clients that join, and what is to be said of it."""
        self.announcer.folder = self.folder
        torch.set_num_threads(federation.spec.threads)
        data, settings = federation.data, self.settings
        terms = Terms(
            run=settings.run or str(self.folder.path.relative_to(settings.folder())),
            arm=folder.arm_name,
            client=-1,
            shape=tuple(int(n) for n in data.x.shape[1:]),
            dtype=str(data.x.dtype),
            classes=data.classes,
        )
        expected = settings.clients or data.clients
        self._roster = Roster(
            self.flower,
            terms,
            expected=expected,
            least=settings.least,
            partitions=data.clients,
            timeout=settings.node_timeout,
            exclude_after=settings.exclude_after,
            say=self.announcer.say,
        )
        facts: dict[str, object] = {"engine": "deployed", "clients": expected}
        if federation.scenario.data.name == "private":
            if not settings.clients:
                raise UserError("data 'private': say how many clients there are, with --clients (clients)")
            facts["train_examples"] = "with the clients"
        weigh = partial(self._weigh, federation.strategy, self._roster)
        grid = DeployedGrid(self._roster, timeout=settings.round_timeout, arrived=weigh)
        return grid, facts

    def draw(self) -> None:
        """Draw nothing: whoever follows the run does."""

    def _weigh(self, strategy: Strategy, roster: Roster) -> None:
        """Count every client alike where one does not tell how many examples it has."""
        if roster.all_tell or getattr(strategy, "weighting", UNIFORM) == UNIFORM:
            return
        assert isinstance(strategy, FedAvg)
        strategy.weighting = "uniform"
        self.announcer.say("a client does not tell how many examples it has: every client counts alike")

    def checkpoint_due(self, federation: Federation, server_round: int) -> bool:
        """Keep every round where the scenario does not say otherwise: it is little beside the time of a real one."""
        return server_round % (federation.scenario.checkpoint.every or 1) == 0


def _to_go_on(place: Path, loaded: LoadedScenario) -> RunFolder:
    if not (place / RESOLVED).exists():
        raise UserError(f"{place}: this server has no such run to go on with")
    same_science(load_run(place), loaded.resolved())
    return RunFolder(place)


class _Strikes:
    """Tells the roster whose replies were refused."""

    def __init__(self, roster: Callable[[], Roster | None]) -> None:
        self._roster = roster

    def start(self, event: Start) -> None:
        """Nothing to do."""

    def round_end(self, event: RoundEnd) -> None:
        """Count refused replies."""
        roster = self._roster()
        for failure in event.failures:
            if failure.kind == "rejected" and roster is not None:
                roster.strike(failure.client, failure.reason)

    def end(self, event: End) -> None:
        """Nothing to do."""
