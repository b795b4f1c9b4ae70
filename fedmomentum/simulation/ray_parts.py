"""A local Ray of those parts alone that actors need: the others cost time when it starts and when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SPARED = ("start_monitor", "start_log_monitor", "start_api_server")
"""Ray's autoscaler, for clusters that grow; what brings actors' prints to the driver, which is off here; the server of
the dashboard, which starts without a dashboard too. ``ray.init`` has no switches for them."""
SIGNALS = "RAY_DISABLE_FAILURE_SIGNAL_HANDLER"
"""Ray takes SIGTERM from this process, but a run that has begun before Ray is up listens for it already."""


@contextmanager
def only_what_actors_need() -> Iterator[None]:
    """Let a Ray that starts meanwhile leave out the rest, as far as this version of Ray has it."""
    from ray._private import node, ray_constants

    changes: list[tuple[Any, str, Any]] = [(node.Node, name, _nothing) for name in SPARED]
    changes.append((ray_constants, SIGNALS, True))
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in changes if name in vars(owner)]
    for owner, name, value in changes:
        if name in vars(owner):
            setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def _nothing(self: Any, **settings: Any) -> None:
    """Stand in for the start of a process."""
