"""Blocks on Ray actors: one actor a worker, the data resident, the model broadcast once a round."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError, WorkerCrashedError

from fedmomentum.simulation.executor import Answer, Lost, MakeWorker
from fedmomentum.simulation.ray_pool import RayPool

ATTEMPTS = 3
"""Times that a block is tried before its clients are given up: it may be the block that kills the worker."""
AHEAD = 2
"""Tasks that a worker holds at a time: the one it runs, and the next, so that it never waits for the driver."""

LIGHT = 64 << 10
"""Bytes of arrays up to which what a round broadcasts goes along with each task: shared memory would cost more time
than another copy. Ray itself takes up to 100 KiB that way."""


class RayExecutor:
    """Runs tasks on Ray actors, each built once with the resident data in shared memory.

    Args:
        make: builds a worker from ``resident``; runs in the actor.
        resident: what every worker holds; put into shared memory once per machine.
        pool: the actors; None starts a pool of its own with ``settings``, which ends with :meth:`close`.
        settings: of the pool, see :class:`~fedmomentum.simulation.ray_pool.RayPool`.

    Raises:
        UserError: the pool cannot be had.
    """

    def __init__(self, make: MakeWorker, *resident: Any, pool: RayPool | None = None, **settings: Any) -> None:
        """Build a worker in every actor."""
        self._owns_pool = pool is None
        self.pool = pool or RayPool(**settings)
        self._make = make
        self._testing: _Test | None = None
        self.broadcast_seconds = 0.0
        """Seconds that the last broadcast took."""
        self._resident = tuple(ray.put(item) for item in resident)
        self._coming: dict[int, Any] = {}
        """Workers that are not known to be there yet, and what will say so."""
        for position in range(len(self.pool.actors)):
            self._build(position)

    def _build(self, position: int) -> None:
        self._coming[position] = self.pool.actors[position].build.remote(self._make, *self._resident)

    def there(self) -> list[int]:
        """Give the workers that can begin at once; all of them where none can.

        One that takes the place of a worker whose machine is gone may have to wait for another machine.
        """
        if self._coming:
            done, _ = ray.wait(list(self._coming.values()), num_returns=len(self._coming), timeout=0)
            self._coming = {position: built for position, built in self._coming.items() if built not in done}
        return [p for p in range(len(self.pool.actors)) if p not in self._coming] or list(self._coming)

    def ready(self) -> bool:
        """Say whether a worker can begin at once."""
        self.there()
        return len(self._coming) < len(self.pool.actors)

    @property
    def replaced(self) -> int:
        """Workers that died or were given up, and were replaced."""
        return self.pool.replaced

    def run(self, tasks: Sequence[Any], payload: Any, *, timeout: float | None = None) -> list[Any]:
        """Run every task; a worker that dies is replaced and its tasks are run again.

        Raises:
            Exception: whatever a worker raised that is not a client's failure (a fault of the engine or of the set-up).
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        results: list[Any] = [None] * len(tasks)
        deaths = [0] * len(tasks)
        began = time.perf_counter()
        broadcast = payload if _size(payload) <= LIGHT else ray.put(payload)
        self.broadcast_seconds = time.perf_counter() - began
        waiting = deque(range(len(tasks)))
        running: dict[Any, tuple[int, int]] = {}
        load = [0] * len(self.pool.actors)
        busy = None if self._testing is None or self._testing.done() else self._testing.actor
        if busy is not None:
            load[busy] += 1  # it tests the last round's model
        while waiting or running:
            if busy is not None and (self._testing is None or self._testing.done()):
                load[busy], busy = load[busy] - 1, None
            self._hand_out(tasks, broadcast, waiting, running, load)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            done, _ = ray.wait(list(running), num_returns=1, timeout=left)
            if not done:
                for position in [*waiting, *(position for _, position in running.values())]:
                    results[position] = Lost(f"no answer within the {timeout:g} s that the round waits", "late")
                for actor in {actor for actor, _ in running.values()}:
                    self.replace(actor)
                break
            reference = done[0]
            actor, position = running.pop(reference)
            load[actor] -= 1
            try:
                results[position] = ray.get(reference)
            except RayTaskError as error:
                raise error.as_instanceof_cause() from None
            except (RayActorError, WorkerCrashedError, ObjectLostError) as error:
                self.replace(actor)
                held = sorted([position, *(p for a, p in running.values() if a == actor)])
                running = {r: (a, p) for r, (a, p) in running.items() if a != actor}
                load[actor] = 0
                busy = None if busy == actor else busy
                deaths[held[0]] += 1  # tasks of an actor run in order: the first one held is the one that was running
                if deaths[held[0]] >= ATTEMPTS:
                    results[held.pop(0)] = Lost(f"its worker died {ATTEMPTS} times ({type(error).__name__})")
                waiting.extendleft(reversed(held))
        return results

    def _hand_out(
        self,
        tasks: Sequence[Any],
        broadcast: Any,
        waiting: deque[int],
        running: dict[Any, tuple[int, int]],
        load: list[int],
    ) -> None:
        """Give the next tasks, largest first, to the workers that hold the fewest."""
        there = self.there() if waiting else []
        while waiting:
            actor = min(there, key=load.__getitem__)
            if load[actor] >= AHEAD:
                return
            position = waiting.popleft()
            load[actor] += 1
            running[self.pool.actors[actor].run.remote(tasks[position], broadcast)] = (actor, position)

    def replace(self, actor: int) -> None:
        """Put a new worker in the place of one that is dead or given up."""
        self.pool.replace(actor)
        self._build(actor)

    def test(self, task: Any, payload: Any) -> Answer:
        """Let a worker test a model while the others, and then all of them, go on with the next round."""
        self._testing = _Test(self, task, payload if _size(payload) <= LIGHT else ray.put(payload))
        return self._testing

    def ask(self, attribute: str) -> Any:
        """Give an attribute of the first worker."""
        return ray.get(self.pool.actors[self.there()[0]].ask.remote(attribute))

    def facts(self) -> dict[str, object]:
        """Say how tasks run."""
        return {"engine": "ray", "workers": self.pool.workers, "ray_nodes": sum(node["Alive"] for node in ray.nodes())}

    def close(self) -> None:
        """End the pool where it is this executor's own."""
        if self._owns_pool:
            self.pool.close()


def _size(payload: Any) -> float:
    """Give the bytes of the arrays in nested mappings; infinite where there is anything else."""
    if isinstance(payload, Mapping):
        return sum(_size(value) for value in payload.values())
    return payload.nbytes if isinstance(payload, np.ndarray) else math.inf


class _Test:
    """A test of a model that a worker carries out; another one does where that worker dies."""

    def __init__(self, executor: RayExecutor, task: Any, payload: Any) -> None:
        self._executor, self._task, self._payload = executor, task, payload
        self._start()

    def _start(self) -> None:
        self.actor = self._executor.there()[-1]  # the first ones get the largest blocks
        self._handle = self._executor.pool.actors[self.actor]
        self._answer = self._handle.test.remote(self._task, self._payload)

    def done(self) -> bool:
        """Say whether there is an answer."""
        return bool(ray.wait([self._answer], timeout=0)[0])

    def result(self) -> Any:
        """Wait for the answer.

        Raises:
            Exception: whatever the test raised, or Ray where worker after worker dies of it.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return ray.get(self._answer)
            except RayTaskError as error:
                raise error.as_instanceof_cause() from None
            except (RayActorError, WorkerCrashedError, ObjectLostError):
                if attempt == ATTEMPTS:
                    raise
                if self._executor.pool.actors[self.actor] is self._handle:  # nobody has replaced it yet
                    self._executor.replace(self.actor)
                self._start()
        raise AssertionError
