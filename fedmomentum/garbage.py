"""Python's search for reference cycles, kept out of the way: it goes through every object that there is.

Importing torch and Flower makes a quarter of a million objects that live as long as the process. Looking for cycles
among them while they come takes a seventh of the time of the imports, and again a tenth of a second in the middle of
some round.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_search() -> Iterator[None]:
    """Look for no cycles meanwhile: for imports, and data that stay."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def set_aside() -> Iterator[None]:
    """Look for cycles among those objects alone that are made meanwhile; afterwards among all of them again."""
    if gc.get_freeze_count():  # somebody has done so already, and will undo it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
