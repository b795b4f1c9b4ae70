"""Draw the chapter's pictures by running its scenarios: ``python -m fedmomentum.experiments.gallery docs/images``."""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fedmomentum.analogies.drawing import compact
from fedmomentum.errors import UserError

PICTURES = {
    **{
        name: f"{name}.png"
        for name in (
            "spring", "pd_control", "plateau", "ravine", "weight_decay", "batch_norm", "low_pass", "games",
            "temperature", "phase_space", "recurrent", "server_momentum",
        )
    },
    "rosenbrock": "paths.png",
    "ravine_race": "paths-2.png",
    "four_valleys": "paths.gif",
    "digits_mlp": "loss.png",
}  # fmt: skip
"""Scenario -> the picture of its run that the chapter shows."""


def draw(folder: Path, *, only: Sequence[str] = ()) -> list[Path]:
    """Run scenarios and put one picture of each into a folder, as small files; give the files.

    Raises:
        UserError: a claim of a scenario does not hold: its picture would show what the text denies.
    """
    from fedmomentum import api

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in only or PICTURES:
        picture = PICTURES[name]
        with tempfile.TemporaryDirectory() as runs:
            film = ["animation=gif"] if picture.endswith(".gif") else []
            result = api.run(name, overrides=film, out=runs)
            failed = [claim.text for claim in result.expectations if not claim.ok]
            if failed:
                raise UserError(f"{name}: a claim does not hold: {'; '.join(failed)}")
            place = folder / f"{name}{Path(picture).suffix}"
            shutil.copyfile(result.folder / "plots" / picture, place)
        if place.suffix == ".png":
            compact(place)
        written.append(place)
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m fedmomentum.experiments.gallery", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--only", nargs="+", choices=list(PICTURES), default=[], metavar="NAME", help="some scenarios")
    chosen = parser.parse_args(arguments)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    for name in chosen.only or PICTURES:
        for file in draw(chosen.folder, only=[name]):
            print(f"{file}  {file.stat().st_size / 1024:.0f} KiB", flush=True)


if __name__ == "__main__":
    main()
