"""A process that runs a scenario, or goes on with it, and is killed in the middle of what it writes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import fedmomentum as fm

TOUCHES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
"""What Python tells its audit hooks just before it does it."""


def live(path: Path, out: Path, last_words: int | None, where: str = "") -> None:
    """Run the scenario, or go on with its run; die before so many touches of the folder of runs are over.

    Args:
        path: the scenario.
        out: the folder of runs.
        last_words: number of touches; None: live on.
        where: count only those of paths that hold this.
    """
    left = last_words

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        if left is not None and event in TOUCHES and str(args[0]).startswith(str(out)) and where in str(args[0]):
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    begun = [file.parent for file in out.glob("*/*/status.json")]
    if begun:
        fm.resume(begun[0])
    else:
        fm.run(path, out=out)
