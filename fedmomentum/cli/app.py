"""``fedmomentum app``: the Flower App of a scenario."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedmomentum import scenario
from fedmomentum.cli import OK


def command(args: argparse.Namespace) -> int:
    """Write the app; give the exit code."""
    loaded = scenario.load(args.scenario, args.overrides)

    from fedmomentum.deployment.appdir import write_app
    from fedmomentum.deployment.settings import Settings

    folder = write_app(loaded, Path(args.folder), Settings())
    print(f"{folder}: a Flower App; run it with: flwr run {folder} CONNECTION")
    return OK
