"""The worker processes of a sweep, each doing one point after another."""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, Any

from fedmomentum.sweeping.task import Answer, Stop, Task

PATIENCE = 5.0
"""Seconds that a process has to end by itself."""


class Crew:
    """So many processes; they begin to import as soon as this is made.

    They are in a session of their own: Ctrl-C on the terminal reaches the sweep alone, which then says :meth:`stop`.
    """

    def __init__(self, jobs: int, *, loud: bool = False) -> None:
        """Start the processes; ``loud`` lets them write to stderr."""
        self._loud = loud
        self._over = False
        self._members = [_Member(loud) for _ in range(jobs)]

    def run(self, tasks: Sequence[Task], *, stop: Any) -> Iterator[tuple[Task, Answer]]:
        """Do every task, and give each with its answer as it is done.

        When ``stop.asked`` becomes true, or the caller leaves, no task is begun any more; those under way are stopped
        after their round.
        """
        waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[Task, Answer] | None] = queue.SimpleQueue()
        for task in tasks:
            waiting.put(task)
        threads = [threading.Thread(target=self._serve, args=(m, waiting, done), daemon=True) for m in self._members]
        for thread in threads:
            thread.start()
        busy = len(threads)
        while busy:
            if stop.asked:
                self.stop()
            try:
                answer = done.get(timeout=0.2)
            except queue.Empty:
                continue
            if answer is None:
                busy -= 1
            else:
                yield answer

    def _serve(
        self,
        member: _Member,
        waiting: queue.SimpleQueue[Task],
        done: queue.SimpleQueue[tuple[Task, Answer] | None],
    ) -> None:
        try:
            while not self._over:
                task = waiting.get_nowait()
                done.put((task, member.do(task)))
        except queue.Empty:
            pass
        finally:
            done.put(None)

    def stop(self) -> None:
        """Begin no more tasks, and let those under way stop after their round."""
        if not self._over:
            self._over = True
            for member in self._members:
                member.tell(Stop())

    def close(self) -> None:
        """End the processes, whatever they are at; the last checkpoint of each stays."""
        self._over = True
        for member in self._members:
            member.close()


class _Member:
    """One process; where it dies, the next task gets another one."""

    def __init__(self, loud: bool) -> None:
        self._loud = loud
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        # the user's own modules are found there as they are here
        path = os.pathsep.join(place or os.getcwd() for place in sys.path)  # noqa: PTH109
        self._said: IO[bytes] | None = None if self._loud else tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fedmomentum.sweeping.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )

    def do(self, task: Task) -> Answer:
        """Have a task done; a process that dies of it is an answer too."""
        if self._process.poll() is not None:
            self.close()
            self._start()
        try:
            self.tell(task, must=True)
            assert self._process.stdout is not None
            answer = pickle.load(self._process.stdout)
            assert isinstance(answer, Answer)
            return answer
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self._process.wait()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}{self._last_words()}"
            return Answer("failed", f"its process {how}")

    def tell(self, message: Task | Stop, *, must: bool = False) -> None:
        """Send a message; only what ``must`` arrive raises where the process is gone."""
        with suppress(*() if must else (OSError, ValueError)), self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(pickle.dumps(message))
            self._process.stdin.flush()

    def _last_words(self) -> str:
        if self._said is None:
            return ""
        self._said.seek(0)
        lines = self._said.read()[-4000:].decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:300]}" if lines else ""

    def close(self) -> None:
        """Let the process end, which it does when its stdin does."""
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdout, self._said):
            if pipe is not None:
                pipe.close()
