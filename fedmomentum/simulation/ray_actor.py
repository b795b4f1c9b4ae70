"""What lives in a Ray actor: a worker that is built by Ray's calls, and given its tasks by them or over a line."""

from __future__ import annotations

import importlib
import os
import pickle
import traceback
from contextlib import suppress
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayTaskError

from fedmomentum.simulation.line import Letter, Line, LineBrokenError, reach
from fedmomentum.simulation.parcels import Packed, Press

REST = None
"""In place of a ticket: stop serving the line, Ray has something to say."""


@ray.remote
class Actor:
    """A worker in a process of its own; it is built anew for each federation, the process stays.

    Args:
        preload: modules to import as soon as it is there.
        node: of the process that gives it tasks, and ``address`` of its door: on the same node there will be a line.
        niceness: what it adds to its own when all is imported.
    """

    def __init__(self, preload: tuple[str, ...], node: str | None, address: str | None, niceness: int = 0) -> None:
        """Import, and go in at the door."""
        for module in preload:
            importlib.import_module(module)
        if niceness and hasattr(os, "nice"):
            os.nice(niceness)
        self._worker: Any = None
        self._press = Press(cloudpickle.dumps)
        near = address is not None and ray.get_runtime_context().get_node_id() == node
        self._line = reach(address, self._press) if near and address is not None else None

    def build(self, make: Any, *resident: Any) -> None:
        """Build the worker."""
        self._worker = make(*resident)

    def do(self, method: str, task: Any, payload: Any) -> Any:
        """Give what a method of the worker makes of a task, or ``ask`` for an attribute."""
        return getattr(self._worker, task) if method == "ask" else getattr(self._worker, method)(task, payload)

    def serve(self) -> None:
        """Do what comes over the line until it says to rest, in this thread: it is the one that the worker knows."""
        line = self._line
        assert line is not None
        try:
            while (letter := self._next(line)) is not None and letter.note is not REST:
                ticket, method = letter.note
                answer = self._answer(method, letter)
                line.send(ticket, answer)
                answer.close()
        except LineBrokenError:
            line.close()  # nobody is there to answer
        except BaseException:
            line.close()  # whoever waits is told
            raise

    def _next(self, line: Line) -> Letter | None:
        """Give the next letter; while there is none the worker may work ahead."""
        letter = line.receive(wait=False)
        if letter is not None:
            return letter
        with suppress(Exception):  # it comes again when the work is due, and is told then
            self._worker.ahead()
        return line.receive()

    def _answer(self, method: str, letter: Any) -> Packed:
        try:
            task, payload = letter.open(), letter.open()
            return self._press.pack(self.do(method, task, payload))
        except Exception as error:
            return self._press.pack(_told(f"{type(self._worker).__name__}.{method}()", error))


def _told(function: str, error: Exception) -> RayTaskError:
    """Give an exception as Ray's calls would bring it; one that cannot travel goes as its words."""
    try:
        pickle.loads(cloudpickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return RayTaskError(function, traceback.format_exc(), error)
