"""A local Ray of those processes alone that actors need: the others take a third of its start, and of its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SPARED = ("start_monitor", "start_log_monitor", "start_api_server")
"""Ray's autoscaler, for clusters that grow; what brings actors' prints to the driver, which is off here; the server of
the dashboard, which starts without a dashboard too. ``ray.init`` has no switches for them."""


@contextmanager
def only_what_actors_need() -> Iterator[None]:
    """Let a Ray that starts meanwhile leave out its other processes, where this version of Ray has them."""
    from ray._private import node

    kept: dict[str, Any] = {name: vars(node.Node)[name] for name in SPARED if name in vars(node.Node)}
    for name in kept:
        setattr(node.Node, name, _nothing)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(node.Node, name, method)


def _nothing(self: Any, **settings: Any) -> None:
    """Stand in for the start of a process."""
