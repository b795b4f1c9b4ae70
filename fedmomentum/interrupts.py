"""Ctrl-C and SIGTERM: the round that is under way is finished and kept; a second signal stops at once."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any


class StopAfterRound:
    """While this context is open, the first SIGINT or SIGTERM only sets ``asked``; the next one is a KeyboardInterrupt.

    Outside the main thread, where signals cannot be caught, nothing changes.
    """

    def __init__(self, *, signals: bool = True) -> None:
        """Begin with nothing asked; without ``signals``, whoever holds this sets ``asked``."""
        self.asked = False
        self._signals = signals
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopAfterRound:
        """Catch the signals."""
        if self._signals and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("stopping after this round; once more to stop at once", file=sys.stderr, flush=True)
