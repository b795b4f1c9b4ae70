"""Blocks on Ray actors: one actor a worker, the data resident, the model broadcast once a round."""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError, WorkerCrashedError

from fedmomentum.simulation.executor import Answer, Lost, MakeWorker
from fedmomentum.simulation.ray_hands import Called, Direct, Hand, HandLostError, Sent
from fedmomentum.simulation.ray_pool import RayPool

ATTEMPTS = 3
"""Times that a block is tried before its clients are given up: it may be the block that kills the worker."""
AHEAD = 2
"""Tasks that a worker holds at a time: the one it runs, and the next, so that it never waits for the driver."""


class RayExecutor:
    """Runs tasks on Ray actors, each built once with the resident data in shared memory.

    Ray places actors, builds their workers and knows whether they live. Those on this machine then take their tasks and
    answer over a line, which costs a tenth of Ray's calls; those on other machines by Ray's calls.

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
        self._testing: _Errand | None = None
        self.broadcast_seconds = 0.0
        """Seconds that the last broadcast took."""
        self._resident = tuple(ray.put(item) for item in resident)
        self._coming: dict[int, Any] = {}
        """Workers that are not known to be there yet, and what will say so."""
        self._hands: dict[int, Hand] = {}
        self._ears = selectors.DefaultSelector()
        self.errands: dict[int, _Errand] = {}
        """What waits for an answer beside the tasks of a round, by ticket."""
        self.pool.rest()
        for position in range(len(self.pool.actors)):
            self._build(position)

    def _build(self, position: int) -> None:
        self._coming[position] = self.pool.actors[position].build.remote(self._make, *self._resident)

    def there(self) -> list[int]:
        """Give the workers that can begin.

        One that takes the place of a worker whose machine is gone may have to wait for another machine.

        Raises:
            Exception: whatever was raised where a worker was built.
        """
        if self._coming:
            done, _ = ray.wait(list(self._coming.values()), num_returns=len(self._coming), timeout=0)
            for position in [position for position, built in self._coming.items() if built in done]:
                self._welcome(position)
        return sorted(self._hands)

    def _await(self, workers: int, timeout: float | None) -> list[int]:
        """Wait for so many of the workers that are coming."""
        ray.wait(list(self._coming.values()), num_returns=workers, timeout=timeout)
        return self.there()

    def someone(self) -> int:
        """Give the worker for an errand: the last one, because the first ones get the largest blocks."""
        return (self.there() or self._await(1, None))[-1]

    def _welcome(self, position: int) -> None:
        """Find the way to a worker that has been built, or is gone, which is found when it is given something."""
        try:
            ray.get(self._coming.pop(position))
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except (RayActorError, WorkerCrashedError, ObjectLostError):
            pass
        line = self.pool.line(position)
        hand = Called(self.pool.actors[position]) if line is None else Direct(line, self.pool.press)
        self._hands[position] = hand
        self._ears.register(hand, selectors.EVENT_READ, position)

    def ready(self) -> bool:
        """Say whether a worker can begin at once."""
        return bool(self.there())

    @property
    def replaced(self) -> int:
        """Workers that died or were given up, and were replaced."""
        return self.pool.replaced

    def run(self, tasks: Sequence[Any], payload: Any, *, timeout: float | None = None) -> list[Any]:
        """Run every task; a worker that dies is replaced and its tasks are run again.

        Raises:
            Exception: whatever a worker raised that is not a client's failure (a fault of the engine or of the set-up).
        """
        sent = Sent(payload, self.pool.press)
        del payload
        try:
            return self._run(tasks, sent, timeout)
        finally:
            self.broadcast_seconds = sent.seconds
            sent.close()

    def _run(self, tasks: Sequence[Any], sent: Sent, timeout: float | None) -> list[Any]:
        deadline = None if timeout is None else time.monotonic() + timeout
        results: list[Any] = [None] * len(tasks)
        deaths = [0] * len(tasks)
        if not self.there():  # they come up side by side, and the first one is not to get everything
            self._await(len(self._coming), timeout if timeout is None else max(0.0, timeout))
        waiting = deque(range(len(tasks)))
        running: dict[int, tuple[int, int]] = {}
        load = [0] * len(self.pool.actors)
        if self._testing is not None and not self._testing.done:
            self.hear(0.0)
        busy = None if self._testing is None or self._testing.done else self._testing.actor
        if busy is not None:
            load[busy] += 1  # it tests the last round's model
        while waiting or running:
            if busy is not None and (self._testing is None or self._testing.done):
                load[busy], busy = load[busy] - 1, None
            self._hand_out(tasks, sent, waiting, running, load)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            answers, dead = self._take(left)
            if left == 0.0 and not answers and not dead:
                for position in [*waiting, *(position for _, position in running.values())]:
                    results[position] = Lost(f"no answer within the {timeout:g} s that the round waits", "late")
                for actor in {actor for actor, _ in running.values()}:
                    self.replace(actor)
                break
            for ticket, answer in answers:
                if ticket not in running:
                    continue  # of a round that was broken off
                actor, position = running.pop(ticket)
                load[actor] -= 1
                if isinstance(answer, RayTaskError):
                    raise answer.as_instanceof_cause() from None
                results[position] = answer
            del answers
            for actor, kind in dead:
                self.replace(actor)
                held = sorted(position for a, position in running.values() if a == actor)
                running = {t: (a, p) for t, (a, p) in running.items() if a != actor}
                load[actor] = 0
                busy = None if busy == actor else busy
                if held:
                    deaths[held[0]] += 1  # tasks run in order: the first one held is the one that was running
                    if deaths[held[0]] >= ATTEMPTS:
                        results[held.pop(0)] = Lost(f"its worker died {ATTEMPTS} times ({kind})")
                waiting.extendleft(reversed(held))
        return results

    def _hand_out(
        self,
        tasks: Sequence[Any],
        sent: Sent,
        waiting: deque[int],
        running: dict[int, tuple[int, int]],
        load: list[int],
    ) -> None:
        """Give the next tasks, largest first, to the workers that hold the fewest."""
        there = self.there() if waiting else []
        while waiting and there:
            actor = min(there, key=load.__getitem__)
            if load[actor] >= AHEAD:
                return
            position = waiting.popleft()
            load[actor] += 1
            running[self.give(actor, "run", tasks[position], sent)] = (actor, position)

    def give(self, actor: int, method: str, task: Any, sent: Sent) -> int:
        """Give a worker something to do; the ticket under which its answer will come."""
        ticket = next(self.pool.tickets)
        self._hands[actor].give(ticket, method, task, sent)
        return ticket

    def _take(self, timeout: float | None) -> tuple[list[tuple[int, Any]], list[tuple[int, str]]]:
        """Wait until a worker has answered, is gone, or is there at last; give answers, and who died of what.

        Answers to errands are given to those.
        """
        answers: list[tuple[int, Any]] = []
        dead: list[tuple[int, str]] = []
        if not self._hands:
            self._await(1, timeout)
            return answers, dead
        for key, _ in self._ears.select(timeout):
            try:
                answers += self._hands[key.data].take()
            except HandLostError as error:
                dead.append((key.data, str(error)))
        for ticket, answer in answers:
            if (errand := self.errands.pop(ticket, None)) is not None:
                errand.take(answer)
        return answers, dead

    def hear(self, timeout: float | None) -> None:
        """Wait so long, between rounds, for answers to errands, and replace who is gone."""
        for actor, _ in self._take(timeout)[1]:
            self.replace(actor)

    def replace(self, actor: int) -> None:
        """Put a new worker in the place of one that is dead or given up."""
        if (hand := self._hands.pop(actor, None)) is not None:
            self._ears.unregister(hand)
            hand.close()
        for ticket in [ticket for ticket, errand in self.errands.items() if errand.actor == actor]:
            self.errands.pop(ticket).lose()
        self.pool.replace(actor)
        self._build(actor)

    def test(self, task: Any, payload: Any) -> Answer:
        """Let a worker test a model while the others, and then all of them, go on with the next round."""
        self._testing = _Errand(self, "test", task, payload)
        return self._testing

    def ask(self, attribute: str) -> Any:
        """Give an attribute of a worker."""
        return _Errand(self, "ask", attribute, {}).result()

    def facts(self) -> dict[str, object]:
        """Say how tasks run."""
        return {"engine": "ray", "workers": self.pool.workers, "ray_nodes": sum(node["Alive"] for node in ray.nodes())}

    def close(self) -> None:
        """End the pool where it is this executor's own."""
        for hand in self._hands.values():
            hand.close()
        self._hands = {}
        self._ears.close()
        if self._owns_pool:
            self.pool.close()


class _Errand:
    """Something that one worker is to do beside the tasks of rounds; another one does where that worker dies."""

    def __init__(self, executor: RayExecutor, method: str, task: Any, payload: Any) -> None:
        self._executor, self._method, self._task = executor, method, task
        self._sent = Sent(payload, executor.pool.press)
        self._answer: Any = None
        self.done = False
        """Whether there is an answer, or will be none."""
        self._start()

    def _start(self) -> None:
        self.actor = self._executor.someone()
        self.done = self._lost = False
        self._executor.errands[self._executor.give(self.actor, self._method, self._task, self._sent)] = self

    def take(self, answer: Any) -> None:
        """Take the answer."""
        self._answer, self.done = answer, True
        self._sent.close()

    def lose(self) -> None:
        """Take note that the worker is gone."""
        self.done = self._lost = True

    def result(self) -> Any:
        """Wait for the answer.

        Raises:
            Exception: whatever the worker raised.
            RuntimeError: worker after worker died of it.
        """
        for _ in range(ATTEMPTS):
            while not self.done:
                self._executor.hear(None)
            if not self._lost:
                if isinstance(self._answer, RayTaskError):
                    raise self._answer.as_instanceof_cause() from None
                return self._answer
            self._start()
        raise RuntimeError(f"worker after worker died of '{self._method}'")
