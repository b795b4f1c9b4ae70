"""Draw the pictures of the analogies: ``python -m fedmomentum.analogies.figures FOLDER [--only NAME ...]``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fedmomentum.analogies.registry import ANALOGIES


def draw(folder: Path, *, only: Sequence[str] = (), formats: Sequence[str] = ("svg", "png")) -> list[Path]:
    """Draw the figures of analogies into a folder and give the files written.

    Args:
        folder: made if it is not there.
        only: names of analogies; all unless given.
        formats: to keep, of ``svg`` and ``png``.
    """
    written = []
    for name in only or ANALOGIES:
        ANALOGIES[name].figure(folder)
        for kind in ("svg", "png"):
            file = folder / f"{name}.{kind}"
            if kind in formats:
                written.append(file)
            else:
                file.unlink()
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m fedmomentum.analogies.figures", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--only", nargs="+", choices=list(ANALOGIES), default=[], metavar="NAME", help="some analogies")
    parser.add_argument("--formats", nargs="+", choices=["svg", "png"], default=["svg", "png"], help="what to keep")
    chosen = parser.parse_args(arguments)
    for file in draw(chosen.folder, only=chosen.only, formats=chosen.formats):
        print(f"{file}  {file.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
