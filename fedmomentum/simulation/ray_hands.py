"""The two ways to give a Ray actor tasks and take its answers: over a line, or by Ray's calls to other machines."""

from __future__ import annotations

import math
import socket
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import numpy as np
import ray
from ray.exceptions import ActorDiedError, ObjectLostError, RayActorError, RayTaskError, WorkerCrashedError

from fedmomentum.simulation.line import Line, LineBrokenError
from fedmomentum.simulation.parcels import Packed, Press

LIGHT = 64 << 10
"""Bytes of arrays up to which what a round sends goes along with each of Ray's calls: shared memory would cost more
time than another copy. Ray itself takes up to 100 KiB that way."""


class HandLostError(Exception):
    """A worker is gone, and with it all that it was given; the message is the kind of its end."""


class Sent:
    """What all workers of a round are sent: packed for lines, and put into Ray's memory, each when it is first needed.

    Args:
        payload: what is sent.
        press: packs it.
    """

    def __init__(self, payload: Any, press: Press) -> None:
        """Do nothing yet."""
        self._payload, self._press = payload, press
        self._packed: Packed | None = None
        self._reference: Any = None
        self.seconds = 0.0
        """Seconds that it took to pack and to put."""

    @property
    def packed(self) -> Packed:
        """For lines."""
        if self._packed is None:
            began = time.perf_counter()
            self._packed = self._press.pack(self._payload)
            self.seconds += time.perf_counter() - began
        return self._packed

    @property
    def reference(self) -> Any:
        """For Ray's calls: what is light as it is, or else where it lies in Ray's memory."""
        if self._reference is None:
            began = time.perf_counter()
            self._reference = self._payload if _size(self._payload) <= LIGHT else ray.put(self._payload)
            self.seconds += time.perf_counter() - began
        return self._reference

    def close(self) -> None:
        """Let go of it: nobody is sent it any more."""
        if self._packed is not None:
            self._packed.close()
        self._packed = self._reference = self._payload = None


def _size(payload: Any) -> float:
    """Give the bytes of the arrays in nested mappings; infinite where there is anything else."""
    if isinstance(payload, Mapping):
        return sum(_size(value) for value in payload.values())
    return payload.nbytes if isinstance(payload, np.ndarray) else math.inf


class Hand(Protocol):
    """A worker that does what it is given, one task after another."""

    def fileno(self) -> int:
        """Give what can be waited for until there is something to take."""

    def give(self, ticket: int, method: str, task: Any, sent: Sent) -> None:
        """Give it a task; its answer comes under the ticket."""

    def take(self) -> list[tuple[int, Any]]:
        """Take answers that are there, by ticket; what the worker raised comes as a ``RayTaskError``.

        Raises:
            HandLostError: the worker is gone.
        """

    def close(self) -> None:
        """Hear nothing of it any more."""


class Direct:
    """A worker on this machine, at the other end of a line."""

    def __init__(self, line: Line, press: Press) -> None:
        """Take the line, which stays open when this is closed: it is the actor's."""
        self._line, self._press = line, press

    def fileno(self) -> int:
        """Give the line's."""
        return self._line.fileno()

    def give(self, ticket: int, method: str, task: Any, sent: Sent) -> None:
        """Send a task; that the line is broken is found when answers are taken."""
        packed = self._press.pack(task)
        try:
            with suppress(LineBrokenError):
                self._line.send((ticket, method), packed, sent.packed)
        finally:
            packed.close()

    def take(self) -> list[tuple[int, Any]]:
        """Take the next answer that is there."""
        try:
            letter = self._line.receive(wait=False)
        except LineBrokenError as error:
            raise HandLostError(ActorDiedError.__name__) from error
        return [] if letter is None else [(letter.note, letter.open())]

    def close(self) -> None:
        """Leave the line as it is."""


class Called:
    """A worker somewhere, by Ray's calls; their ends ring a bell that can be waited for beside lines."""

    def __init__(self, actor: Any) -> None:
        """Hang up the bell."""
        self._actor = actor
        self._bell, self._cord = socket.socketpair()
        self._bell.setblocking(False)
        self._cord.setblocking(False)
        self._done: deque[tuple[int, Future[Any]]] = deque()

    def fileno(self) -> int:
        """Give the bell's."""
        return self._bell.fileno()

    def give(self, ticket: int, method: str, task: Any, sent: Sent) -> None:
        """Call the actor."""
        self._actor.do.remote(method, task, sent.reference).future().add_done_callback(partial(self._ring, ticket))

    def _ring(self, ticket: int, done: Future[Any]) -> None:
        """Note, in a thread of Ray's, that a call has ended."""
        self._done.append((ticket, done))
        with suppress(OSError):  # nobody listens any more, or it rings already
            self._cord.send(b"\0")

    def take(self) -> list[tuple[int, Any]]:
        """Take the answers that are there."""
        with suppress(BlockingIOError):
            self._bell.recv(1 << 12)
        taken: list[tuple[int, Any]] = []
        while self._done:
            ticket, done = self._done[0]
            error = done.exception()
            if isinstance(error, RayActorError | WorkerCrashedError | ObjectLostError):
                if not taken:
                    raise HandLostError(type(error).__name__) from error
                self._ring(*self._done.popleft())
                break
            if error is not None and not isinstance(error, RayTaskError):
                raise error
            self._done.popleft()
            taken.append((ticket, done.result() if error is None else error))
        return taken

    def close(self) -> None:
        """Take down the bell."""
        self._bell.close()
        self._cord.close()
