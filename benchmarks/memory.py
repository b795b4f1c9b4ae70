"""The memory of a process and its descendants, looked at while something runs."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil


class Peaks:
    """The largest memory seen meanwhile, in bytes.

    ``driver``: of this process alone (pages that it has written and nobody else has: not those of libraries, which are
    its own or not as other programs come and go). ``worker``: the same of its largest worker. ``total``: of this
    process and all its descendants, pages that several share counted once.
    """

    def __init__(self, period: float = 0.05) -> None:
        """Look every ``period`` seconds."""
        self.found = {"driver": 0, "worker": 0, "total": 0}
        self._period, self._over = period, threading.Event()
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
        total = 0
        for process in [own, *own.children(recursive=True)]:
            try:
                pss, written = _pages(process.pid)
                name = process.name()
            except (psutil.Error, OSError):
                continue
            total += pss
            kind = "driver" if process == own else "worker" if name.startswith("ray::") else ""
            if kind:
                self.found[kind] = max(self.found[kind], written)
        self.found["total"] = max(self.found["total"], total)


def _pages(process: int) -> tuple[int, int]:
    """Give a process's share of all its pages, and those that it alone has and has written, in bytes (Linux)."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    return sizes["Pss"], sizes["Private_Dirty"]
