"""``fedmomentum watch``: follow a run from the files that it writes, from another terminal or another machine."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from fedmomentum.cli import CLAIM, INTERNAL, INTERRUPTED, OK
from fedmomentum.cli.progress import Lines, Progress
from fedmomentum.cli.summary import headline
from fedmomentum.errors import UserError
from fedmomentum.events import End, RoundEnd, Start
from fedmomentum.report.growing import Growing
from fedmomentum.report.numbers import duration, real
from fedmomentum.runs import Run, load_run
from fedmomentum.runs.folder import METRICS
from fedmomentum.runs.process import at_work

PATIENCE = 60.0
"""Seconds without a sign of life after which a run whose process is not on this machine is given up."""
CLAIMS = 30.0
"""Longest wait for the claims of a run that has ended: it draws its pictures before it checks them."""


def command(args: argparse.Namespace) -> int:
    """Show a run until it ends; give the exit code that ``fedmomentum run`` gives for it."""
    run = load_run(args.run)
    question = str(run.scenario.get("question") or run.name)
    follower = Follower(run.path)
    with _progress(sys.stdout, question, follower.clock) as progress:
        gone = follower.follow(progress, pause=args.interval)
    return _say(load_run(args.run), gone)


class Follower:
    """Turns the growth of a run folder into the events that the run told its own listeners."""

    def __init__(self, path: Path, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Take the run folder, or that of an arm."""
        self.path = path
        self._sleep = sleep
        self._files: dict[str, Growing] = {}
        self._ended: set[str] = set()
        self._elapsed: dict[str, float] = {}
        self._arm = ""

    def clock(self) -> float:
        """Give the seconds that the arm of the event that is being told had taken then, by its own clock."""
        return self._elapsed.get(self._arm, 0.0)

    def follow(self, progress: Progress, *, pause: float, now: Callable[[], float] = time.monotonic) -> bool:
        """Tell ``progress`` what happens until the run has ended.

        Args:
            progress: is told what is there already, then what comes.
            pause: seconds between two looks.
            now: a clock in seconds.

        Returns:
            Whether the run was given up: it has not ended, its process is not on this machine, and nothing came for
            ``PATIENCE`` seconds.
        """
        last = now()
        while True:
            status = _status(Run(self.path))  # before the rows: of a run that has ended, all of them are there then
            if self._look(progress):
                last = now()
            if status.get("status", "running") != "running":
                return False
            if now() - last > PATIENCE and not at_work(status):
                return True
            self._sleep(pause)

    def _look(self, progress: Progress) -> bool:
        run = Run(self.path)
        arms = {name: arm.path for name, arm in _arms(run).items()} or {"": self.path}
        return any([self._look_at(progress, name, path) for name, path in arms.items()])

    def _look_at(self, progress: Progress, name: str, path: Path) -> bool:
        if name in self._ended:
            return False
        self._arm = name
        status = _status(Run(path))
        rounds = _whole(status.get("rounds"))
        begun = name in self._files
        file = self._files.setdefault(name, Growing(path / METRICS))
        rows = [row for row in file.read() if 0 <= real(row.get("round")) < math.inf]
        if not begun and not rows and not rounds:
            del self._files[name]
            return False
        if not begun or file.restarted:
            self._elapsed[name] = 0.0
            progress.arms.pop(name, None)  # what was counted of rows that are gone
            facts = status.get("facts")
            progress.start(
                Start(str(status.get("name", "")), rounds, 1, name, facts if isinstance(facts, dict) else {})
            )
        for row in rows:
            numbers = {key: real(value) for key, value in row.items() if isinstance(value, int | float)}
            self._elapsed[name] = numbers.get("elapsed", self._elapsed[name])
            progress.round_end(RoundEnd(int(row["round"]), rounds, numbers, arm=name))
        state = str(status.get("status", "running"))
        if state != "running":
            progress.end(End(state, _whole(status.get("rounds_done")), name, str(status.get("message", ""))))
            self._ended.add(name)
        return bool(rows) or not begun


def _progress(stream: TextIO, title: str, clock: Callable[[], float]) -> Progress:
    if stream.isatty() and os.environ.get("TERM", "") not in ("dumb", ""):
        from rich.console import Console

        from fedmomentum.cli.panel import LivePanel

        return LivePanel(Console(file=stream), title, clock=clock)
    print(title, file=stream, flush=True)
    return Lines(stream, clock=clock)


def _say(run: Run, gone: bool) -> int:
    """Print what became of the run and give the exit code."""
    if gone:
        process = f"process {run.status.get('pid')} is not on this machine"
        print(
            f"{process}, no sign of life for {duration(PATIENCE)}: the run seems to have been killed", file=sys.stderr
        )
        return INTERNAL
    state = str(run.status.get("status"))
    if state == "finished":
        run = _with_claims(run)
    claims = run.status.get("expectations") or []
    failed = [claim for claim in claims if not claim.get("ok")]
    print(headline(run.series, status=state, name=run.name))
    if claims:
        print(f"claims: {len(claims) - len(failed)} of {len(claims)} hold")
    for claim in failed:
        print(f"  does not hold: {claim.get('text')}")
    for arm in (run, *_arms(run).values()):
        if message := _status(arm).get("message"):
            print(f"{arm.arm}: {message}" if arm.arm else message, file=sys.stderr)
    print(f"run folder: {run.path}")
    if state != "finished":
        return INTERRUPTED if state == "interrupted" else INTERNAL
    return CLAIM if failed else OK


def _with_claims(run: Run) -> Run:
    """Wait for the claims of a run that has some, as long as its process is there to check them."""
    until = time.monotonic() + CLAIMS
    while run.scenario.get("expect") and "expectations" not in run.status and time.monotonic() < until:
        if not at_work(run.status):
            break
        time.sleep(0.2)
        run = Run(run.path, run.arm)
    return Run(run.path, run.arm)


def _arms(run: Run) -> dict[str, Run]:
    with suppress(UserError):
        return run.arms
    return {}


def _status(run: Run) -> dict[str, Any]:
    """Read what became of a run; nothing where that cannot be read just now."""
    with suppress(UserError, OSError):
        return run.status
    return {}


def _whole(value: object) -> int:
    number = real(value)
    return int(number) if 0 <= number < math.inf else 0
