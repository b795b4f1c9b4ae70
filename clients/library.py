"""The library that is built from ``native.c`` when the package is installed, where there is a C compiler."""

from __future__ import annotations

import ctypes
import importlib.util
import socket
from functools import cache

from fedmomentum.errors import UserError

VERSION = 3
"""Of ``native.c``: a library that was built from another one is not used."""


@cache
def library() -> ctypes.CDLL | None:
    """Load it; None where the package was installed without it."""
    found = importlib.util.find_spec("fedmomentum.clients._native")
    if found is None or found.origin is None:
        return None
    try:
        loaded = ctypes.CDLL(found.origin)
        return loaded if loaded.native_version() == VERSION else None
    except (OSError, AttributeError):
        return None


def available() -> bool:
    """Say whether it is here."""
    return library() is not None


def check(*, wanted: bool) -> None:
    """Refuse to train without it where the process that began the run has it: bits would depend on who trains whom.

    Raises:
        UserError: it is wanted and not here.
    """
    if wanted and not available():
        raise UserError(
            f"engine.native: fedmomentum on {socket.gethostname()} was installed without a C compiler, or from another "
            "version, and the run was begun where it has its compiled part. Install a compiler (such as gcc) there and "
            "then fedmomentum again, or use engine.native: false."
        )
