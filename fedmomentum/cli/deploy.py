"""``fedmomentum deploy``: a scenario with real clients, through Flower's SuperLink."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fedmomentum import scenario
from fedmomentum.cli.progress import Progress
from fedmomentum.cli.run import carry_out
from fedmomentum.errors import UserError
from fedmomentum.runs import load_run

if TYPE_CHECKING:
    from fedmomentum.api import Result

RESUMPTION = "fedmomentum deploy --resume"
FLAGS = ("clients", "least", "node_timeout", "round_timeout", "exclude_after", "send_model")
"""Flags that are settings of the run config, where they are given."""


def command(args: argparse.Namespace) -> int:
    """Run a scenario on a federation, or go on with one; give the exit code."""
    if (args.scenario is None) == (args.resume is None):
        raise UserError("give either a scenario, or --resume and the folder of a run")
    if args.resume is not None:
        return _resume(args)
    if args.federation is None:
        raise UserError("--federation is missing: the name of the connection to a SuperLink in Flower's config.toml")
    loaded = scenario.load(args.scenario, args.overrides)

    def go(listener: Progress) -> Result:
        from fedmomentum.deployment.deploy import deploy
        from fedmomentum.deployment.settings import Settings

        settings = Settings(**_given(args))
        return deploy(loaded, args.federation, settings=settings, out=args.out, listeners=[listener], say=_say(args))

    title = loaded.scenario.question or loaded.scenario.name
    arms = [arm.name for arm in loaded.arms]
    return carry_out(args, title, arms, go, out=args.out, resumption=RESUMPTION)


def _resume(args: argparse.Namespace) -> int:
    run = load_run(args.resume)

    def go(listener: Progress) -> Result:
        from fedmomentum.deployment.deploy import resume

        return resume(
            args.resume,
            args.federation,
            overrides=args.overrides,
            changes=_given(args),
            listeners=[listener],
            say=_say(args),
        )

    title = str(run.scenario.get("question") or run.name)
    return carry_out(args, title, list(run.arms) or [""], go, out=str(run.path.parent), resumption=RESUMPTION)


def _given(args: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name in FLAGS if (value := getattr(args, name)) is not None}


def _say(args: argparse.Namespace) -> Callable[[str], None]:
    def say(text: str) -> None:
        # looked up anew: a live panel puts itself in the place of sys.stdout
        print(text, file=sys.stderr if args.json else sys.stdout, flush=True)

    return (lambda text: None) if args.quiet else say
