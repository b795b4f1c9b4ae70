"""The process that stays for a node and a run: it holds torch, the network and the data from message to message.

It ends with the process that all of Flower's processes for this node come from, when it has had nothing to do for a
while (a shorter one where another run begins on the node), when whoever waits for an answer goes away, and after a
failure, so that the next message begins afresh.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

from fedmomentum.deployment.desk import Desk
from fedmomentum.deployment.handover import MAKE_ROOM, Asked, Done, leave, receive, room, send
from fedmomentum.errors import UserError
from fedmomentum.peer import same_user

IDLE = 300.0
"""Seconds after which one that nobody has asked anything ends: to start another one costs little beside that."""
RESTED = 60.0
"""The same where another run begins on the node: its data need room too, and this one's run is probably over."""


def serve(listener: socket.socket, desk: Desk, *, idle: float = IDLE, rested: float = RESTED) -> None:
    """Answer whoever connects, one after another, until nobody does or something fails.

    Args:
        listener: listens; the caller closes it.
        desk: does the work.
        idle: seconds to wait for the next one.
        rested: seconds since the last one after which it makes room for another run.
    """
    worked = time.monotonic()
    while True:
        listener.settimeout(max(0.001, worked + idle - time.monotonic()))
        try:
            line, _ = listener.accept()
        except TimeoutError:
            return
        with line:
            request = receive(line) if same_user(line) else None
            if request is None:
                continue
            if len(request) == len(MAKE_ROOM):
                if time.monotonic() - worked > rested:
                    return
                continue
            asked, request = pickle.loads(request), None  # a large model need not lie here twice
            with _ending_with(line):
                answer, failed = _answer(desk, asked)
            with suppress(OSError):
                send(line, answer)
            del asked, answer
        if failed:
            return
        desk.prepare()
        worked = time.monotonic()


def _answer(desk: Desk, asked: Asked) -> tuple[bytes, bool]:
    """Give what to send back, and whether it failed in a way that this process should not outlive."""
    try:
        done: Done | Exception = desk.work(asked)
    except Exception as error:
        error.add_note("in the process that works for this node:\n" + traceback.format_exc().rstrip())
        return _portable(error), not isinstance(error, UserError)
    return pickle.dumps(done, protocol=5), False


def _portable(error: Exception) -> bytes:
    """Give an exception so that it can be raised elsewhere: the same one wherever its class allows that."""
    try:
        data = pickle.dumps(error)
        if type(pickle.loads(data)) is type(error):
            return data
    except Exception:  # whatever the class of another library does
        pass
    return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))


@contextmanager
def _ending_with(line: socket.socket) -> Iterator[None]:
    """End this process if the other end of a connection goes away meanwhile: nobody waits for what it is at."""
    over = os.eventfd(0)

    def watch() -> None:
        if over not in _first(line.fileno(), over):
            os._exit(1)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.eventfd_write(over, 1)
        thread.join()
        os.close(over)


def _first(gone: int, ready: int) -> list[int]:
    """Wait until the other end of ``gone`` is closed or ``ready`` can be read; give which."""
    poll = select.poll()
    poll.register(gone, 0)  # only that it hangs up
    poll.register(ready, select.POLLIN)
    return [number for number, _ in poll.poll()]


def _end_with(parent: int, before: Callable[[], None]) -> None:
    """End this process when another one ends, given by its descriptor."""

    def watch() -> None:
        select.select([parent], [], [])
        before()
        os._exit(0)

    Thread(target=watch, daemon=True).start()


def main() -> None:
    """Serve on a socket that listens already; arguments: it, the process to end with, and its name in its folder."""
    listener, parent, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in the SuperNode's terminal ends it without a word

    def gone() -> None:
        with suppress(OSError), room() as place:
            leave(place, name)

    _end_with(parent, gone)
    with socket.socket(fileno=listener) as listening:
        try:
            serve(listening, Desk())
        finally:
            gone()  # before it is closed: who finds the name finds somebody behind it


if __name__ == "__main__":
    main()
