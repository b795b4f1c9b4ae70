"""The reference of the schema: ``python -m fedmomentum.scenario.reference > docs/scenarios.md``."""

from __future__ import annotations

import sys

from fedmomentum.scenario.block import CUSTOM
from fedmomentum.scenario.describe import Section, describe
from fedmomentum.scenario.guide import GUIDE
from fedmomentum.scenario.shape import KINDS, Setting


def markdown() -> str:
    """Write the reference of every kind as Markdown, behind the guide; what kinds share is written once."""
    lines, told = [GUIDE.strip(), ""], dict[tuple[str, ...], str]()
    for kind in KINDS:
        lines += [f"## Every setting of `kind: {kind}`", ""]
        sections = describe(kind)
        for path in dict.fromkeys(section.path for section in sections):
            here = [section for section in sections if section.path == path]
            lines += [f"### `{path}`" if path else "### The scenario itself", ""]
            text = tuple(_named(here) if here[0].name else [here[0].summary, "", *_table(here[0].settings), ""])
            if text in told and path:
                lines += [f"As {told[text]}, above.", ""]
            else:
                told[text] = f"`{path}` of `kind: {kind}`"
                lines += text
    return "\n".join(lines).rstrip() + "\n"


def _named(here: list[Section]) -> list[str]:
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
