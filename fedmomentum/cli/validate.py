"""``fedmomentum validate``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fedmomentum import scenario
from fedmomentum.cli import OK, USER
from fedmomentum.errors import UserError


def command(args: argparse.Namespace) -> int:
    """Check every scenario, and say of each what it would run or all that is wrong with it."""
    code = OK
    for name in args.scenarios:
        try:
            loaded = scenario.load(name, args.overrides)
        except UserError as error:
            print(error, file=sys.stderr)
            code = USER
            continue
        print(f"ok  {loaded.path}: {summary(loaded)}")
        for target in loaded.callables:
            print(f"      imports {target} when it runs")
    return code


def summary(loaded: Any) -> str:
    """Say how big a scenario is: ``quickstart, 2 arms, 100 clients, 60 rounds``."""
    arms = [arm.scenario for arm in loaded.arms]
    words = [str(loaded.scenario.name)]
    if len(arms) > 1:
        words.append(f"{len(arms)} arms")
    extents = [arm.extent() for arm in arms]
    for noun in dict.fromkeys(noun for extent in extents for noun in extent):
        known = sorted({extent[noun] for extent in extents if noun in extent})
        words.append(f"{known[0]} {noun}" if len(known) == 1 else f"{known[0]} to {known[-1]} {noun}")
    return ", ".join(words)
