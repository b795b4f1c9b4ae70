"""``fedmomentum resume``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fedmomentum.cli.progress import Progress
from fedmomentum.cli.run import carry_out
from fedmomentum.runs import load_run

if TYPE_CHECKING:
    from fedmomentum.api import Result


def command(args: argparse.Namespace) -> int:
    """Go on with a run; give the exit code."""
    run = load_run(args.run)
    if run.status.get("kind") == "sweep":
        from fedmomentum.cli.sweep import resume

        return resume(args)
    title = str(run.scenario.get("question") or run.name)

    def go_on(listener: Progress) -> Result:
        from fedmomentum import api

        return api.resume(args.run, overrides=args.overrides, listeners=[listener], profile=args.profile)

    return carry_out(args, title, list(run.arms) or [""], go_on, out=str(run.path.parent))
