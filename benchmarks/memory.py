"""The memory of a process and its descendants, looked at while something runs (on Linux)."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil


class Peaks:
    """The largest memory seen meanwhile, in bytes.

    ``driver``: of this process alone (pages that it has written; not those of libraries, which are its own or not as
    other programs come and go, and not shared memory). ``worker``: the same of its largest worker. ``total``: of this
    process and all its descendants, pages that several share counted once, and all shared memory that the machine has
    beyond what it had at first, whoever has looked at it.
    """

    def __init__(self, period: float = 0.05) -> None:
        """Look every ``period`` seconds."""
        self.found = {"driver": 0, "worker": 0, "total": 0}
        self._period, self._over = period, threading.Event()
        self._before = _shared()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End."""
        self._over.set()
        self._thread.join()
        self._look(psutil.Process())

    def _watch(self) -> None:
        own = psutil.Process()
        self._look(own)
        while not self._over.wait(self._period):
            self._look(own)

    def _look(self, own: psutil.Process) -> None:
        total = _shared() - self._before
        for process in [own, *own.children(recursive=True)]:
            try:
                used, name = _fields(f"{process.pid}/smaps_rollup"), process.name()
            except (psutil.Error, OSError):
                continue
            if "Pss" not in used:  # it has just ended
                continue
            total += used["Pss"] - used["Pss_Shmem"]
            kind = "driver" if process == own else "worker" if name.startswith("ray::") else ""
            if kind:
                self.found[kind] = max(self.found[kind], used["Anonymous"])
        self.found["total"] = max(self.found["total"], total)


def written(process: psutil.Process) -> int:
    """Give the bytes that a process has written, shared memory that it has mapped included."""
    used = _fields(f"{process.pid}/smaps_rollup")
    return used["Anonymous"] + used["Pss_Shmem"]


def _shared() -> int:
    """Give the bytes of shared memory that this machine has."""
    return _fields("meminfo")["Shmem"]


def _fields(file: str) -> dict[str, int]:
    """Give the named numbers of a file in ``/proc``, in bytes."""
    lines = (Path("/proc") / file).read_text().splitlines()
    words = [line.split() for line in lines if line.endswith("kB")]
    return {first.rstrip(":"): 1024 * int(number) for first, number, *_ in words}
