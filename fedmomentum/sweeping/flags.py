"""The sweep that flags or keyword arguments ask for, as overrides of the scenario."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from fedmomentum.errors import UserError


def sweep_overrides(
    grid: Mapping[str, object] | Sequence[str] = (),
    zip: Mapping[str, object] | Sequence[str] = (),
    seeds: int | None = None,
) -> list[str]:
    """Give the ``--set`` that say the same as ``--grid``, ``--zip`` and ``--seeds``.

    Claims of the scenario are about its own arms, which a grid or zip takes apart, and are left out then.

    Args:
        grid: path of a setting -> values, or texts ``path=v1,v2``; every combination is a point.
        zip: the same, but the lists move together.
        seeds: repeat every point with this many seeds.

    Raises:
        UserError: a text is no ``path=v1,v2``.
    """
    given = {"grid": grid, "zip": zip}
    overrides = [f"sweep={{{part}: {axis}}}" for part, axes in given.items() for axis in _axes(axes, f"--{part}")]
    if overrides:
        overrides.append("expect=[]")
    return overrides + ([] if seeds is None else [f"sweep={{seeds: {json.dumps(seeds)}}}"])


def _axes(axes: Mapping[str, object] | Sequence[str], flag: str) -> list[str]:
    """Write each axis as a YAML mapping of one list."""
    if isinstance(axes, Mapping):
        return [f"{{{json.dumps(path)}: {json.dumps(values)}}}" for path, values in axes.items()]
    texts = []
    for axis in axes:
        path, equals, values = axis.partition("=")
        if not equals or not path.strip() or not values.strip():
            raise UserError(f"{flag} {axis}: expected PATH=V1,V2, such as client.optimizer.lr=0.01,0.1")
        texts.append(f"{{{json.dumps(path.strip())}: [{values}]}}")
    return texts
