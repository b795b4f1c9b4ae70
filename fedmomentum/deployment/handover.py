"""From the process that Flower starts for a message to the one of the same node and run that stays, and back.

They meet at a Unix socket in a folder that is this user's alone. Who finds nobody there begins to listen, and starts
the process that goes on listening: it need not be waited for. Imports nothing but what Flower has imported already.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging import WARNING
from pathlib import Path
from typing import Any, Literal

from flwr.app import RecordDict
from flwr.common import log

from fedmomentum import __version__
from fedmomentum.peer import same_user

Kind = Literal["join", "train", "evaluate", "gradient"]
FLOWERS = "flwr-clientapp"
"""Flower's command for one message: elsewhere (its simulation, a test) a process stays by itself."""
MAKE_ROOM = b""
"""In place of a message: who has not worked for a while may end."""
PATIENCE = 10.0
"""Seconds to wait for another process that looks for its own; it takes some milliseconds."""
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Asked:
    """What a message asks of a node; ``state`` is what Flower keeps for the node."""

    kind: Kind
    content: RecordDict
    state: RecordDict
    node_config: Mapping[str, Any]
    run_config: Mapping[str, Any]


@dataclass(frozen=True)
class Done:
    """What a node answers, and what Flower is to keep for it."""

    content: RecordDict
    state: RecordDict


class ResidentLostError(RuntimeError):
    """The process that stays ended while it was at a message, and the one after it too."""


class NobodyStaysError(Exception):
    """No process can be started that stays, or reached; nothing has been asked of any."""


class Resident:
    """The process that stays for a node and a run; it is started when there is none.

    Args:
        name: of its socket, the same for all messages that may meet it and for no other.
        parent: the process that it ends with.
    """

    def __init__(self, name: str, parent: int) -> None:
        """Look nowhere yet."""
        self.name, self.parent = name, parent

    def work(self, asked: Asked) -> Done:
        """Let it do what a message asks for.

        Nothing that counts is kept there, so that one that has ended (killed, or out of memory) is replaced, and the
        message given to its successor.

        Raises:
            Exception: what was raised there; or ResidentLostError, or NobodyStaysError.
        """
        request = pickle.dumps(asked, protocol=5)
        for _ in range(2):
            with self._reached() as line:
                with suppress(OSError):
                    send(line, request)
                answer = receive(line)
            if answer is not None:
                done = pickle.loads(answer)
                if isinstance(done, Exception):
                    raise done
                assert isinstance(done, Done)
                return done
            log(WARNING, "the process that works for this node has ended while it was at a message")
        raise ResidentLostError(
            "the process that works for this node ended twice while it was at this message; its log may say why, "
            "and resident=false in its config does without that process"
        )

    def _reached(self) -> socket.socket:
        """Give a connection to it."""
        try:
            with room() as place:
                _lock(place)  # two messages must not both find nobody and begin to listen
                line = knock(place, self.name)
                if line is None:
                    self._start(place)
                    line = knock(place, self.name)
        except OSError as error:
            raise NobodyStaysError(str(error)) from error
        if line is None or not same_user(line):
            raise NobodyStaysError("it ended as it began" if line is None else "its socket is another user's")
        return line

    def _start(self, place: int) -> None:
        sweep(place, f"{self.parent}-")
        parent = os.pidfd_open(self.parent)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(_address(place, self.name))
            listener.listen()
            here = [str(fd) for fd in (listener.fileno(), parent)]
            subprocess.Popen(
                [sys.executable, "-P", "-m", "fedmomentum.deployment.resident", *here, self.name],
                pass_fds=(listener.fileno(), parent),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # Flower put the app on it
            )
        os.close(parent)


def resident(asked: Asked, run: int, node: int) -> Resident | None:
    """Give the process that stays for a node and a run; None where this process itself is to do the work.

    It belongs to the process that started this one (Flower's, of the SuperNode), to the run, the node, its config, and
    the code: whatever differs in one of these meets another one.
    """
    if asked.node_config.get("resident", True) is not True or Path(sys.argv[0]).name != FLOWERS:
        return None
    if not hasattr(os, "pidfd_open") or not hasattr(socket, "SO_PEERCRED"):
        return None  # not Linux
    if "--allow-runtime-dependency-installation" in sys.argv:
        return None  # Flower deletes with this process what it was told to install for it
    parent = os.getppid()
    known = (
        __version__, __file__, sys.executable, parent, run, node,
        sorted(asked.node_config.items()), sorted(asked.run_config.items()),
    )  # fmt: skip
    return Resident(f"{parent}-{hashlib.sha256(repr(known).encode()).hexdigest()[:32]}", parent)


# ---- the folder of the sockets -----------------------------------------------------------------------------------


@contextmanager
def room() -> Iterator[int]:
    """Open the folder of the sockets, which is made; give its descriptor.

    Raises:
        OSError: it is not this user's alone.
    """
    path = Path(tempfile.gettempdir()) / f"fedmomentum-{os.geteuid()}"
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    place = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(place)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError(f"{path} must be a folder of this user that nobody else may enter (mode 0700)")
        yield place
    finally:
        os.close(place)


def _lock(place: int) -> None:
    """Be the only one in the folder until it is closed; whoever stands still in there is not waited for."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def knock(place: int, name: str) -> socket.socket | None:
    """Give a connection to whoever listens at a socket; None where nobody does."""
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(_address(place, name))
    except (FileNotFoundError, ConnectionRefusedError):
        line.close()
        return None
    return line


def sweep(place: int, mine: str) -> None:
    """Remove the sockets of those that were killed, and tell those of the same SuperNode that another run begins."""
    for name in os.listdir(place):
        line = knock(place, name)
        if line is None:
            leave(place, name)
            continue
        with line, suppress(OSError):
            if name.startswith(mine):
                send(line, MAKE_ROOM)


def leave(place: int, name: str) -> None:
    """Remove a socket."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=place)


def _address(place: int, name: str) -> str:
    """Give the path of a socket in an open folder: one that is short enough, and leads to no other folder."""
    return f"/proc/self/fd/{place}/{name}"


# ---- what goes over a connection ---------------------------------------------------------------------------------


def send(line: socket.socket, data: bytes) -> None:
    """Send bytes, their number first."""
    line.sendall(_LENGTH.pack(len(data)))
    line.sendall(data)


def receive(line: socket.socket) -> bytearray | None:
    """Give the bytes that were sent; None where the other end went away before all of them came."""
    head = _exactly(line, _LENGTH.size)
    return None if head is None else _exactly(line, _LENGTH.unpack(head)[0])


def _exactly(line: socket.socket, size: int) -> bytearray | None:
    data = bytearray(size)
    view, come = memoryview(data), 0
    while come < size:
        try:
            more = line.recv_into(view[come:])
        except ConnectionError:
            return None
        if not more:
            return None
        come += more
    return data
