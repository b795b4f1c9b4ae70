"""Weights & Biases: one run an arm, kept on this machine until ``wandb sync`` sends it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fedmomentum.events import End, RoundEnd, Start
from fedmomentum.trackers.facts import scalars, settings

if TYPE_CHECKING:
    import wandb

Mode = Literal["offline", "online", "disabled"]


class WandbTracker:
    """Log the numbers of every round, with the settings as the config; the arms of a run are one group.

    Nothing leaves this machine by default: ``wandb sync runs/*/*/wandb/offline-run-*`` sends what was kept.
    """

    def __init__(
        self,
        folder: Path,
        *,
        project: str | None = None,
        mode: Mode = "offline",
        entity: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        """Take the run folder.

        Args:
            folder: the run folder; files go into ``wandb/`` in it.
            project: name; by default the scenario's.
            mode: ``offline``, ``online`` (needs a login) or ``disabled``.
            entity: user or team, where it is not the default one.
            tags: to find the runs by.
        """
        if mode == "offline":  # not even crash reports; a user's own choice stands
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._folder = folder
        self._project = project
        self._mode: Mode = mode
        self._entity = entity
        self._tags = tuple(tags)
        self._runs: dict[str, wandb.Run] = {}

    def start(self, event: Start) -> None:
        """Begin the run of an arm; a resumed arm has the id that it had."""
        import wandb

        group = self._folder.name
        identity = f"{self._folder.parent.name}/{group}/{event.arm}"
        facts = {str(key): value for key, value in event.facts.items()}
        self._runs[event.arm] = wandb.init(
            project=self._project or event.name,
            entity=self._entity,
            name=f"{group} {event.arm}".strip(),
            group=group,
            id=hashlib.sha256(identity.encode()).hexdigest()[:16],
            resume="allow" if event.first_round > 1 and self._mode == "online" else None,
            tags=self._tags,
            config={**settings(self._folder, event.arm), "facts": facts},
            dir=str(self._folder),
            mode=self._mode,
            reinit="create_new",  # arms do not end each other's runs
            settings=wandb.Settings(
                silent=True,
                console="off",  # the progress panel owns the terminal
                save_code=False,
                disable_git=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
            ),
        )

    def round_end(self, event: RoundEnd) -> None:
        """Log the numbers of a round."""
        self._runs[event.arm].log(scalars(event), step=event.round)

    def end(self, event: End) -> None:
        """Finish the arm's run."""
        if (run := self._runs.pop(event.arm, None)) is not None:
            run.summary["status"] = event.status
            run.finish(exit_code=0 if event.status == "finished" else 1)
