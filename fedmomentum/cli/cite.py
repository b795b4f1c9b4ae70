"""``fedmomentum cite``: the papers behind what a scenario uses."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from fedmomentum import scenario
from fedmomentum.cli import OK
from fedmomentum.cli.bibliography import FLOWER, bibtex
from fedmomentum.scenario.block import Block

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})\b")
"""Numbers have four digits after the dot until 2014, and five since."""


def command(args: argparse.Namespace) -> int:
    """Print BibTeX of the methods, models and data of all arms, and of Flower."""
    loaded = scenario.load(args.scenario, args.overrides)
    found = {arxiv for arm in loaded.arms for arxiv in papers(arm.scenario)} | {FLOWER}
    print("\n\n".join(bibtex(arxiv) for arxiv in sorted(found)))
    return OK


def papers(block: Block) -> Iterator[str]:
    """Give the arXiv ids that a block names, and those of its settings that are not left at their default."""
    yield from _ARXIV.findall(type(block).__doc__ or "")
    for name, info in type(block).model_fields.items():
        value = getattr(block, name)
        if value is not None and value != info.default:
            yield from _ARXIV.findall(info.description or "")
        if isinstance(value, Block):
            yield from papers(value)
