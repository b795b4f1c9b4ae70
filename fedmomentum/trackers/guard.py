"""A listener that may fail without anyone but its reader being the worse for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fedmomentum.events import End, Listener, RoundEnd, Start

log = logging.getLogger("fedmomentum.trackers")


class Guarded:
    """Pass events on until the first failure; from then on, after one warning, pass none.

    Attributes:
        name: of the tracker.
        inner: the listener itself.
        failure: what went wrong, or None.
    """

    def __init__(self, name: str, inner: Listener) -> None:
        """Guard a listener; the name is for the warning."""
        self.name, self.inner = name, inner
        self.failure: str | None = None

    def start(self, event: Start) -> None:
        """Pass on that an arm begins."""
        self._try(self.inner.start, event)

    def round_end(self, event: RoundEnd) -> None:
        """Pass on that a round is done."""
        self._try(self.inner.round_end, event)

    def end(self, event: End) -> None:
        """Pass on that an arm has ended."""
        self._try(self.inner.end, event)

    def _try(self, call: Callable[[Any], None], event: object) -> None:
        if self.failure is not None:
            return
        try:
            call(event)
        except Exception as error:
            self.failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
            # A log record, not warnings.warn: where warnings are errors, that would break the run after all.
            log.warning("tracker '%s' failed and hears no more of this run: %s", self.name, self.failure)
            log.debug("where it failed", exc_info=True)
