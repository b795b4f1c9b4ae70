"""The reference of the schema: ``python -m fedmomentum.scenario.reference > docs/scenarios.md``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from fedmomentum.scenario.block import CUSTOM, Block
from fedmomentum.scenario.guide import GUIDE
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


def markdown(kind: str = "federated") -> str:
    """Write the reference as Markdown, behind the guide."""
    lines = [GUIDE.strip(), "", f"## Every setting of `kind: {kind}`", ""]
    sections = describe(kind)
    for path in dict.fromkeys(section.path for section in sections):
        here = [section for section in sections if section.path == path]
        lines += [f"### `{path}`" if path else "### The scenario itself", ""]
        if here[0].name:
            lines += _named(here, KINDS[kind], path)
        else:
            lines += [here[0].summary, "", *_table(here[0].settings), ""]
    return "\n".join(lines).rstrip() + "\n"


def _named(here: list[Section], kind: type[Block], path: str) -> list[str]:
    """Write the settings that all names share once, then those of each name."""
    plain = [section for section in here if section.name != CUSTOM]
    shared = [row for row in plain[0].settings if all(row in section.settings for section in plain) and len(plain) > 1]
    lines = []
    if shared:
        but = " (but your own code)" if len(plain) < len(here) else ""
        lines += [f"Whatever the name{but}:", "", *_table(shared), ""]
    for section in here:
        own = [row for row in section.settings if row not in shared and row.name != "name"]
        lines += [f"**`name: {section.name}`**: {section.summary}", ""]
        if own:
            lines += [*_table(own), ""]
    return lines


def _table(rows: list[Setting] | tuple[Setting, ...]) -> list[str]:
    lines = ["| setting | value | default | meaning |", "|---|---|---|---|"]
    for row in rows:
        words = "a mapping, below" if row.shape.blocks and not row.shape.words.startswith("a number") else row.words
        if row.shape.item is not None and row.shape.item.blocks:
            words = "a list of mappings, below"
        default = f"`{row.default}`" if row.default else "required"
        cells = (f"`{row.name}`", words, default, row.description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


if __name__ == "__main__":
    sys.stdout.write(markdown())
