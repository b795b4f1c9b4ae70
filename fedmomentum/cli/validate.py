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
    for noun, values in (("clients", [_clients(arm) for arm in arms]), ("rounds", [arm.rounds for arm in arms])):
        known = sorted({value for value in values if value is not None})
        if known:
            words.append(f"{known[0]} {noun}" if len(known) == 1 else f"{known[0]} to {known[-1]} {noun}")
    return ", ".join(words)


def _clients(arm: Any) -> int | None:
    """Give the number of clients if the scenario says it; a natural partition only knows once the data is there."""
    for holder in (getattr(arm.data, "partition", None), arm.data):
        count = getattr(holder, "clients", None)
        if isinstance(count, int):
            return count
    return None
