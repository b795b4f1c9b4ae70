"""The memory of a process and its descendants, looked at while something runs."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psutil


class Peaks:
    """The largest memory seen meanwhile, in bytes.

    ``driver``: of this process alone (pages that nobody else has). ``worker``: the same of the largest of its workers.
    ``total``: of this process and all its descendants, pages that several share counted once.
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
                used, name = process.memory_full_info(), process.name()
            except psutil.Error:
                continue
            total += used.pss
            kind = "driver" if process == own else "worker" if name.startswith("ray::") else ""
            if kind:
                self.found[kind] = max(self.found[kind], used.uss)
        self.found["total"] = max(self.found["total"], total)
