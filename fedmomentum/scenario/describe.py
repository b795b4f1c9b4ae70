"""The schema laid out block by block, for the reference and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from fedmomentum.scenario.shape import KINDS, Setting, Shape, settings, summary


@dataclass(frozen=True)
class Section:
    """One block of the reference.

    Attributes:
        path: where the block stands, such as ``client.optimizer``; empty for the scenario itself.
        name: the ``name`` that picks it; empty where there is nothing to pick.
        summary: what it is, in a line.
        settings: its settings.
    """

    path: str
    name: str
    summary: str
    settings: tuple[Setting, ...]


def describe(kind: str = "federated") -> list[Section]:
    """Give every block of a kind of scenario, in the order of its settings; a block that stands at two places, twice.

    Raises:
        KeyError: there is no such kind.
    """
    return list(_sections("", Shape("", {"": KINDS[kind]})))


def schema_json(kind: str = "federated") -> str:
    """Give the JSON Schema of a kind of scenario, for editors that complete and check YAML.

    Raises:
        KeyError: there is no such kind.
    """
    return json.dumps(KINDS[kind].model_json_schema(), indent=2)


def _sections(path: str, shape: Shape) -> Iterator[Section]:
    below: dict[str, Shape] = {}
    for name, block in shape.blocks.items():
        rows = settings(block)
        yield Section(path, name, summary(block), tuple(rows))
        for row in rows:
            inner = row.shape.item if row.shape.item is not None and row.shape.item.blocks else row.shape
            if inner.blocks:
                below.setdefault(f"{path}.{row.name}".removeprefix("."), inner)
    for inner_path, inner in below.items():
        yield from _sections(inner_path, inner)
