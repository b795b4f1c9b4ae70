"""Where blocks run: the seam between the grid and this process, Ray, or anything else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch


class BlockWorker(Protocol):
    """Anything that turns a task and what the round broadcasts into a result."""

    def run(self, task: Any, payload: Any) -> Any:
        """Run one task. The result depends on the task and the payload alone."""


MakeWorker = Callable[..., BlockWorker]
"""Builds a worker from the resident data; it has to be picklable for workers in other processes."""


@dataclass(frozen=True)
class Lost:
    """In place of a result: the task never came back, and why."""

    reason: str
    kind: str = "lost"


class Answer(Protocol):
    """What a worker will have answered."""

    def result(self) -> Any:
        """Wait for the answer."""


class Executor(Protocol):
    """Runs tasks on workers; gives results in the order of the tasks, whatever order they came in."""

    def run(self, tasks: Sequence[Any], payload: Any, *, timeout: float | None = None) -> list[Any]:
        """Run every task; in place of a task that never came back stands a :class:`Lost`."""

    def test(self, task: Any, payload: Any) -> Answer | None:
        """Let a worker test a model beside all else, to the numbers that it has in this process; None: do it here."""

    def ask(self, attribute: str) -> Any:
        """Give an attribute of one worker, such as what it chose."""

    def facts(self) -> dict[str, object]:
        """Say how tasks run, for the run folder."""

    def close(self) -> None:
        """Give back what was taken."""


class InlineExecutor:
    """Runs every task in this process, in order."""

    def __init__(self, make: MakeWorker, *resident: Any, threads: int = 1) -> None:
        """Build one worker; torch's threads are pinned until :meth:`close`, because bits depend on them."""
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads)
        self._worker = make(*resident)

    def run(self, tasks: Sequence[Any], payload: Any, *, timeout: float | None = None) -> list[Any]:
        """Run every task in turn; those that have not begun when the time is up are given up."""
        deadline = None if timeout is None else time.monotonic() + timeout
        results: list[Any] = []
        for task in tasks:
            if deadline is not None and time.monotonic() > deadline:
                results.append(Lost(f"no answer within the {timeout:g} s that the round waits", "late"))
            else:
                results.append(self._worker.run(task, payload))
        return results

    def test(self, task: Any, payload: Any) -> None:
        """Leave it to who asks: nothing goes on beside anything else here."""

    def ask(self, attribute: str) -> Any:
        """Give an attribute of the worker."""
        return getattr(self._worker, attribute)

    def facts(self) -> dict[str, object]:
        """Say how tasks run."""
        return {"engine": "inline", "workers": 1}

    def close(self) -> None:
        """Give torch its threads back."""
        torch.set_num_threads(self._threads_before)
