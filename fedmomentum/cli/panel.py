"""The live panel: a line an arm, with its curve so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from rich.box import ROUNDED
from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedmomentum.cli.progress import ArmProgress, Progress
from fedmomentum.events import End, Start
from fedmomentum.report.numbers import duration, number, rate

MARKS = {"waiting": " ", "running": ">", "finished": "+", "interrupted": "!", "failed": "x"}
COLOURS = {"waiting": "bright_black", "running": "bold", "finished": "", "interrupted": "yellow", "failed": "red"}

COLUMNS = {
    "arm": 0,
    "bar": 90,
    "round": 0,
    "accuracy": 0,
    "curve": 110,
    "loss": 60,
    "clients/s": 75,
    "failed": 70,
    "left": 0,
}
"""The columns, each with the narrowest console that has room for it."""


class LivePanel(Progress):
    """Shows every arm of a run in place, four times a second."""

    def __init__(
        self,
        console: Console,
        title: str,
        arms: Iterable[str] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the console to draw on and a title: the question that the run asks."""
        super().__init__(arms, clock=clock)
        self._title = title
        self._console = console
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=4, redirect_stdout=True)

    def start(self, event: Start) -> None:
        """Note that an arm begins, and draw."""
        super().start(event)
        self._live.refresh()

    def end(self, event: End) -> None:
        """Note what became of an arm, and draw."""
        super().end(event)
        self._live.refresh()

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        self._live.__exit__(kind, error, trace)

    def render(self) -> RenderableType:
        """Draw the panel for the console's present width and height."""
        columns = [column for column, least in COLUMNS.items() if self._console.width >= least]
        if not self._console.encoding.startswith("utf"):
            columns = [column for column in columns if column != "curve"]
        roomy = self._console.width >= 60
        table = Table.grid(padding=(0, 2 if roomy else 1))
        for column in columns:
            left = column in ("arm", "bar", "curve")
            widest = max(8, self._console.width // (3 if roomy else 5)) if column == "arm" else None
            table.add_column(justify="left" if left else "right", no_wrap=True, max_width=widest)
        heads = {"arm": "arm" if any(self.arms) else "", "bar": "", "curve": ""}
        table.add_row(*(Text(heads.get(column, column), style="bright_black") for column in columns))
        shown, hidden = self._window()
        for arm in shown:
            cells = self._cells(arm)
            table.add_row(*(cells[column] for column in columns))
        if hidden:
            table.add_row(Text(f"and {hidden} more", style="bright_black"))
        facts = "  ".join(f"{key.replace('_', ' ')} {value}" for key, value in self.facts.items() if _plain(value))
        return Panel(
            table,
            title=Text(self._title),
            title_align="left",
            subtitle=Text(facts, style="bright_black", overflow="ellipsis"),
            subtitle_align="left",
            box=ROUNDED,
            border_style="bright_black",
            expand=False,
        )

    def _window(self) -> tuple[list[ArmProgress], int]:
        """Choose the arms that fit the screen, the running one among the last of them."""
        arms = list(self.arms.values())
        room = max(1, self._console.height - 6)
        if len(arms) <= room:
            return arms, 0
        running = next((i for i, arm in enumerate(arms) if arm.status in ("running", "waiting")), len(arms) - 1)
        first = min(max(0, running - room + 2), len(arms) - room)
        return arms[first : first + room], len(arms) - room

    def _cells(self, arm: ArmProgress) -> dict[str, RenderableType]:
        style = COLOURS[arm.status]
        left = f"{arm.status} {duration(arm.seconds)}" if arm.status != "waiting" else ""
        if arm.status == "running":
            left = duration(arm.remaining) if arm.remaining is not None else ""
        return {
            "arm": Text(f"{MARKS[arm.status]} {arm.name}".rstrip(), style=style, overflow="ellipsis"),
            "bar": ProgressBar(total=max(1, arm.rounds), completed=max(0, arm.done), width=self._console.width // 6),
            "round": Text(f"{arm.done}/{arm.rounds}" if arm.rounds else ""),
            "accuracy": Text(number(arm.latest["accuracy"]) if "accuracy" in arm.latest else "", style="bold"),
            "curve": Text(sparkline(arm.accuracies, 16), style="cyan"),
            "loss": Text(number(arm.latest["loss"]) if "loss" in arm.latest else ""),
            "clients/s": Text(rate(arm.rate) if arm.rate is not None else ""),
            "failed": Text(str(arm.failures) if arm.failures else "", style="yellow"),
            "left": Text(left, style=style),
        }


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw values from 0 to the highest in at most ``width`` characters, each a mean of some; NaN is blank."""
    if not values:
        return ""
    width = min(width, len(values))
    shares = [values[i * len(values) // width : (i + 1) * len(values) // width] for i in range(width)]
    means = [math.fsum(share) / len(share) if all(map(math.isfinite, share)) else math.nan for share in shares]
    top = max((m for m in means if m > 0), default=1.0)
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * max(0.0, m) / top))] if math.isfinite(m) else " " for m in means)


def _plain(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool) and len(str(value)) <= 24
