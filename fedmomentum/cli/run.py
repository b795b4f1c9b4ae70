"""``fedmomentum run``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, TextIO

from fedmomentum import scenario
from fedmomentum.cli import CLAIM, INTERNAL, INTERRUPTED, OK
from fedmomentum.cli.progress import Lines, Progress
from fedmomentum.cli.quiet import hush, stdout_to_stderr
from fedmomentum.cli.summary import as_json, final_lines
from fedmomentum.report.numbers import plural
from fedmomentum.runs import list_runs
from fedmomentum.runs.atomic import finite

if TYPE_CHECKING:
    from fedmomentum.api import Result


def command(args: argparse.Namespace) -> int:
    """Run a scenario; give the exit code."""
    loaded = scenario.load(args.scenario, args.overrides)  # faults show before anything heavy loads

    def go(listener: Progress) -> Result:
        from fedmomentum import api

        return api.run(loaded.path, overrides=args.overrides, out=args.out, listeners=[listener], profile=args.profile)

    title = loaded.scenario.question or loaded.scenario.name
    return carry_out(args, title, [arm.name for arm in loaded.arms], go, out=args.out)


def carry_out(
    args: argparse.Namespace,
    title: str,
    arms: Sequence[str],
    go: Callable[[Progress], Result],
    *,
    out: str,
    resumption: str = "fedmomentum resume",
) -> int:
    """Run (or go on), show progress on the way and what came of it at the end; give the exit code."""
    if not args.debug:
        hush()
    stream = sys.stderr if args.json else sys.stdout
    with stdout_to_stderr() if args.json else nullcontext(), sigterm_as_interrupt():
        try:
            with watch(stream, title, arms, quiet=args.quiet) as progress:
                result = go(progress)
        except BaseException:
            say_what_was_kept(out)
            raise
    return report_result(args, result, resumption)


def report_result(args: argparse.Namespace, result: Result, resumption: str = "fedmomentum resume") -> int:
    """Print what a run gave, for people or as JSON; give the exit code. ``resumption`` is the command to go on with."""
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if args.json:
        print(json.dumps(finite(as_json(result)), allow_nan=False, default=str))
    else:
        print("\n".join(final_lines(result)))
        if result.status == "interrupted":
            print(f"go on with:  {resumption} {result.folder}")
    if result.status == "interrupted":
        return INTERRUPTED
    if result.status == "failed":
        return INTERNAL
    return OK if all(claim.ok for claim in result.expectations) else CLAIM


def watch(stream: TextIO, title: str, arms: Sequence[str], *, quiet: bool) -> Progress:
    """Choose how to show progress: not at all, a live panel on a terminal, lines elsewhere."""
    if quiet:
        return Progress(arms)
    if stream.isatty() and os.environ.get("TERM", "") not in ("dumb", ""):
        from rich.console import Console

        from fedmomentum.cli.panel import LivePanel

        return LivePanel(Console(file=stream), title, arms)
    print(title, file=stream, flush=True)
    return Lines(stream, arms)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Take the signal of a batch system or a container that wants us gone like Ctrl-C: finish cleanly."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say_what_was_kept(out: str) -> None:
    """Name the run folder of this process, if it had come to have one when it was stopped."""
    mine = next((run for run in list_runs(out) if run.status.get("pid") == os.getpid()), None)
    if mine is not None:
        count = len(mine.metrics)
        print(f"{plural(count, 'row')} of metrics {'is' if count == 1 else 'are'} kept in {mine.path}", file=sys.stderr)
