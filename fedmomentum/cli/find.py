"""Which file a person means by a scenario's name."""

from __future__ import annotations

from pathlib import Path

from fedmomentum import scenario


def find(name: str) -> Path:
    """Give the file of that name, else the shipped scenario of that name, else the name as it is, for the error."""
    path = Path(name)
    return path if path.exists() else Path(scenario.shipped().get(name, path))
