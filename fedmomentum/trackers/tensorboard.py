"""TensorBoard: event files in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedmomentum.events import End, RoundEnd, Start
from fedmomentum.runs import slug
from fedmomentum.trackers.facts import client_columns, scalars, settings

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardTracker:
    """Write scalars of every round, and histograms of what its clients reported.

    ``tensorboard --logdir runs`` shows every run and arm as a curve of its own. After a resume, points of rounds that
    are done again are hidden.
    """

    def __init__(self, folder: Path, *, directory: str | None = None, histograms: bool = True) -> None:
        """Take the run folder.

        Args:
            folder: the run folder.
            directory: where event files go; by default ``tensorboard/`` in the run folder. Each arm has a folder there.
            histograms: draw how the clients' values are spread, as well.
        """
        self._folder = folder
        self._directory = folder / "tensorboard" if directory is None else Path(directory)
        self._histograms = histograms
        self._writers: dict[str, SummaryWriter] = {}

    def start(self, event: Start) -> None:
        """Open the arm's event file and note its settings."""
        from torch.utils.tensorboard import SummaryWriter

        place = self._directory / slug(event.arm) if event.arm else self._directory
        purge = event.first_round if event.first_round > 1 else None
        writer = self._writers[event.arm] = SummaryWriter(str(place), purge_step=purge)
        facts = {**settings(self._folder, event.arm), **event.facts}
        lines = ["| setting | value |", "|---|---|", *(f"| {_cell(k)} | {_cell(v)} |" for k, v in facts.items())]
        writer.add_text("settings", "\n".join(lines))

    def round_end(self, event: RoundEnd) -> None:
        """Write the numbers of a round."""
        writer = self._writers[event.arm]
        for name, value in scalars(event).items():
            writer.add_scalar(name, value, event.round)
        if self._histograms:
            import numpy as np

            for name, values in client_columns(event):
                writer.add_histogram(f"clients/{name}", np.asarray(values), event.round)

    def end(self, event: End) -> None:
        """Note what became of the arm and close its file."""
        if (writer := self._writers.pop(event.arm, None)) is not None:
            writer.add_text("status", f"{event.status} {event.message}".strip(), event.rounds_done)
            writer.close()


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
