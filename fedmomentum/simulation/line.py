"""A line to another process of this machine: packets through a Unix socket, whole or not at all, and nobody spins.

A packet is small; what is large lies in shared memory (``parcels.py``), and the packet says where. A line is between
processes of one user: each end looks who the other is.
"""

from __future__ import annotations

import os
import pickle
import secrets
import socket
from array import array
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from fedmomentum.peer import same_user
from fedmomentum.simulation.parcels import Packed, Press, Reading, from_bytes

_PACKET = 112 << 10
"""Bytes of the largest packet: a note and two objects of at most ``LIGHT`` bytes."""
_ROOM = 4 * _PACKET
"""Bytes that may wait in a line: what a worker is sent ahead, so that nobody waits to send."""
_FILES = 8


class LineBrokenError(Exception):
    """The other end is gone, or speaks another language."""


class Letter:
    """A note, and objects with it, which have to be opened before the next letter is received."""

    def __init__(self, note: Any, parts: list[Callable[[], Any]]) -> None:
        """Hold what unpacks the objects."""
        self.note, self._parts = note, parts

    def open(self) -> Any:
        """Give the next object.

        Raises:
            Exception: it cannot be unpickled here.
        """
        return self._parts.pop(0)()


class Line:
    """One end of a line.

    Args:
        connected: the socket.
        press: packs what this end sends.
        own: whether arrays that come in may be written to, because this end is the only one that they are sent to.

    Raises:
        LineBrokenError: the press has no seat left.
    """

    def __init__(self, connected: socket.socket, press: Press, *, own: bool) -> None:
        """Take a seat at the press."""
        seat = press.seat()
        if seat is None:
            raise LineBrokenError("no seat is left")
        self._socket, self._press, self._own, self._seat = connected, press, own, seat
        self._shown: set[int] = set()
        """Sheets that the other end has mapped."""
        self._maps: dict[int, Reading] = {}
        self._scratch = memoryview(bytearray(_PACKET))
        self._control = socket.CMSG_SPACE(4 * _FILES)
        # flags as numbers: each operation on those of the socket module costs microseconds
        self._wait = int(socket.MSG_CMSG_CLOEXEC)
        self._look = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
        self._cut = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
        connected.setblocking(True)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)

    def fileno(self) -> int:
        """Give what can be waited for until a letter is there."""
        return self._socket.fileno()

    def send(self, note: Any, *parts: Packed) -> None:
        """Send a note and objects, two at the most.

        Raises:
            LineBrokenError: the other end is gone.
        """
        gone = self._shown - self._press.numbers
        self._shown -= gone
        words: list[Any] = []
        files: list[int] = []
        body: list[bytes] = []
        end = 0
        for part in parts:
            if (sheet := part.sheet) is None:
                words.append((part.places, end, end + len(part.data)))
                body.append(part.data)
                end += len(part.data)
                continue
            new = sheet.number not in self._shown
            if new:
                files.append(sheet.file)
                if not sheet.once:
                    self._shown.add(sheet.number)
            sheet.lend(self._seat)
            words.append((len(part.places), sheet.number, sheet.size, self._seat, sheet.once, new))
        head = pickle.dumps((note, words, tuple(gone), end), 5)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", files))] if files else []
        try:
            self._socket.sendmsg([head, *body], ancillary)
        except OSError as error:
            raise LineBrokenError(str(error)) from error

    def receive(self, *, wait: bool = True) -> Letter | None:
        """Give the next letter; None where there is none yet and this is not to ``wait``.

        Raises:
            LineBrokenError: the other end is gone.
        """
        try:
            flags = self._wait if wait else self._look
            size, ancillary, got, _ = self._socket.recvmsg_into([self._scratch], self._control, flags)
        except BlockingIOError:
            return None
        except OSError as error:
            raise LineBrokenError(str(error)) from error
        files = array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                files.frombytes(data[: len(data) - len(data) % files.itemsize])
        try:
            if not size:
                raise EOFError("hung up")
            if got & self._cut:
                raise ValueError("a packet did not come whole")
            return self._letter(self._scratch[:size], files)
        except Exception as error:
            for file in files:
                with suppress(OSError):
                    os.close(file)
            raise LineBrokenError(f"the other end: {error}") from error

    def _letter(self, packet: memoryview, files: array[int]) -> Letter:
        note, words, gone, below = pickle.loads(packet)
        for number in gone:
            self._maps.pop(number, None)
        body = packet[len(packet) - below :]
        parts: list[Callable[[], Any]] = []
        for word in words:
            if len(word) == 3:
                places, first, last = word
                parts.append(partial(from_bytes, places, body[first:last], own=self._own))
                continue
            pieces, number, size, seat, once, new = word
            reading = Reading(files.pop(0), size, once=once) if new else self._maps[number]
            if not once:
                self._maps[number] = reading
            parts.append(reading.take(pieces, seat=seat, own=self._own))
        return Letter(note, parts)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
        self._maps.clear()
        self._press.leave(self._seat)


class Door:
    """Where a process of this machine and user can come in, once."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            OSError: this system has no such doors (they are Linux's), or no shared memory without a name.
        """
        if not hasattr(os, "memfd_create"):
            raise OSError("no memory without a name")
        os.close(os.memfd_create("fedmomentum", os.MFD_CLOEXEC))
        self.address = f"\0fedmomentum-{secrets.token_hex(16)}"
        """Its name, which is no file: nothing is left of it."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(self.address)
        self._socket.listen()
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """Give what can be waited for until somebody comes in."""
        return self._socket.fileno()

    def enter(self, press: Press) -> Line | None:
        """Give the line to who has come in, if anybody has, and close the door."""
        try:
            while True:
                connected, _ = self._socket.accept()
                if same_user(connected):
                    return Line(connected, press, own=True)
                connected.close()
        except (BlockingIOError, LineBrokenError):
            return None
        finally:
            self.close()

    def close(self) -> None:
        """Let nobody in any more."""
        self._socket.close()


def reach(address: str, press: Press) -> Line | None:
    """Go in at a door of another process; None where there is none, such as on another machine."""
    try:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connected.connect(address)
    except (OSError, AttributeError):
        return None
    if not same_user(connected):
        connected.close()
        return None
    return Line(connected, press, own=False)
