"""The first blocks run in this process while workers elsewhere come up, which then take over, be it within a round."""

from __future__ import annotations

import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

import torch

from fedmomentum.heap import give_back
from fedmomentum.simulation.executor import Answer, Executor, Lost, MakeWorker

LOOK = 0.02
"""Seconds between two looks at whether the workers are there, while a block runs here."""
PATIENCE = 10.0
"""Seconds that a block which is to stop may take for the operation that it is at."""


class Coming(Executor, Protocol):
    """An executor whose workers may still be on their way."""

    def ready(self) -> bool:
        """Say whether a worker can begin at once."""


class EarlyExecutor:
    """Runs tasks on a worker of this process, one after another, until workers elsewhere are there.

    A task that has begun here ends here; those still waiting go to the others as soon as one of these can begin. Which
    tasks that are is a matter of time; results are not, because a result depends on its task alone.

    Args:
        make: builds a worker from ``resident``.
        resident: what a worker holds; the one of this process shares it with the caller.
        later: gives the executor that takes over, or None while it cannot be made. It is asked again and again; what it
            raises is raised by whatever is asked of this executor then.
        facts: what to say of the workers to come, as long as they cannot say it themselves.
    """

    def __init__(
        self,
        make: MakeWorker,
        *resident: Any,
        later: Callable[[], Coming | None],
        facts: dict[str, object] | None = None,
    ) -> None:
        """Begin without a worker: there may be others before one is needed here."""
        self._make = partial(make, *resident)
        self._later, self._expected = later, facts or {}
        self._here: _Here | None = None
        self._there: Coming | None = None
        self._over = False
        self._early: dict[str, int] = {}

    @property
    def replaced(self) -> int:
        """Workers that died or were given up, and were replaced."""
        return int(getattr(self._there, "replaced", 0))

    @property
    def broadcast_seconds(self) -> float:
        """Seconds that the last broadcast took."""
        return float(getattr(self._there, "broadcast_seconds", 0.0)) if self._over else 0.0

    def _taken_over(self) -> Coming | None:
        """Look whether workers are there, and give them; from then on they do all that comes."""
        if self._there is None:
            self._there = self._later()
        if not self._over and self._there is not None and self._there.ready():
            self._over = True
            if self._here is not None:
                self._here.finish()
        return self._there if self._over else None

    def _worker(self) -> _Here:
        if self._here is None:
            self._here = _Here(self._make)
            # first weights come from the generator that torch has for all threads: nobody else may draw meanwhile
            self._here.submit(lambda worker: None).result()
        return self._here

    def run(self, tasks: Sequence[Any], payload: Any, *, timeout: float | None = None) -> list[Any]:
        """Run every task, here or there.

        Raises:
            Exception: whatever a worker raised that is not a client's failure, or what keeps the workers from coming.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        results: list[Any] = [None] * len(tasks)
        waiting = deque(range(len(tasks)))
        here: tuple[int, Future[Any]] | None = None
        while (there := self._taken_over()) is None and waiting:
            if deadline is not None and time.monotonic() > deadline:
                late = Lost(f"no answer within the {timeout:g} s that the round waits", "late")
                while waiting:
                    results[waiting.popleft()] = late
            elif here is None:
                position = waiting.popleft()
                here = position, self._begin(tasks[position], payload)
            elif _ended(here[1]):
                results[here[0]], here = here[1].result(), None
        if there is not None and waiting:
            rest = [tasks[position] for position in waiting]
            if self._early and hasattr(rest[0], "round"):
                self._early.setdefault("workers_since_round", rest[0].round)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            for position, result in zip(waiting, there.run(rest, payload, timeout=left), strict=True):
                results[position] = result
        if here is not None:
            results[here[0]] = here[1].result()
        return results

    def _begin(self, task: Any, payload: Any) -> Future[Any]:
        self._early["early_blocks"] = self._early.get("early_blocks", 0) + 1
        return self._worker().submit(lambda worker: worker.run(task, payload))

    def test(self, task: Any, payload: Any) -> Answer | None:
        """Let a worker test a model; the one of this process does it before the next blocks."""
        if (there := self._taken_over()) is not None:
            return there.test(task, payload)
        return self._worker().submit(lambda worker: worker.test(task, payload))

    def ask(self, attribute: str) -> Any:
        """Give an attribute of a worker."""
        if (there := self._taken_over()) is not None:
            return there.ask(attribute)
        return self._worker().submit(lambda worker: getattr(worker, attribute)).result()

    def facts(self) -> dict[str, object]:
        """Say how tasks run."""
        return dict(self._expected) if self._there is None else self._there.facts()

    def course(self) -> dict[str, int]:
        """Say what ran where since this was last asked: ``early_blocks`` here, and since when there were workers."""
        early, self._early = self._early, {}
        return early

    def close(self) -> None:
        """Stop what still runs here, and give back what was taken."""
        if self._here is not None:
            self._here.stop()
        if self._there is not None:
            self._there.close()


def _ended(answer: Future[Any]) -> bool:
    """Wait a moment for an answer."""
    return bool(wait([answer], LOOK).done)


class _Here:
    """A worker in a thread of this process, so that others can be given work while it is at a block.

    With how many threads torch computes is a matter of the thread that asks: what the worker sets leaves others alone.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        """Begin; the worker is built in its thread."""
        self._threads, self._busy = torch.get_num_threads(), False
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[Any], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(make,), daemon=True)
        self._thread.start()

    def _work(self, make: Callable[[], Any]) -> None:
        worker: Any = None
        while (call := self._calls.get()) is not None:
            self._busy = True
            try:
                worker = make() if worker is None else worker
                call[0].set_result(call[1](worker))
            except BaseException as error:  # raised again where the answer is read
                call[0].set_exception(error)
            finally:
                self._busy = False
            del call  # and with it the model of a round
        del worker
        torch.set_num_threads(self._threads)  # which new threads begin with
        give_back()

    def submit(self, call: Callable[[Any], Any]) -> Future[Any]:
        """Let the worker do something when it is done with what it was given before."""
        answer: Future[Any] = Future()
        self._calls.put((answer, call))
        return answer

    def finish(self) -> None:
        """Let the worker go when it has done what it was given."""
        self._calls.put(None)

    def stop(self) -> None:
        """Let the worker go at once: a block that it is at is broken off."""
        self.finish()
        self._thread.join(LOOK)
        until = time.monotonic() + PATIENCE
        while self._thread.is_alive() and time.monotonic() < until:
            if self._busy:
                thread = ctypes.c_ulong(self._thread.ident or 0)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(KeyboardInterrupt))
            self._thread.join(LOOK)
