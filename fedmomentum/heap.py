"""When memory that was freed goes back to the system: where this process says so, and not at every large block."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""What ``mallopt`` of glibc calls them: ``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD``."""


@cache
def keep() -> None:
    """Let the C library keep what is freed until :func:`give_back`, from now on, where it can (glibc).

    By itself it returns every large block, and each tensor that is made while a large model trains has to be faulted in
    again. Actors have this from their environment.
    """
    setting = _function("mallopt")
    if setting is not None:
        setting(_MMAP_THRESHOLD, 1 << 30)
        setting(_TRIM_THRESHOLD, 1 << 30)


def give_back() -> None:
    """Return free pages of the heap to the system, where the C library can (glibc); others do it by themselves."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def _function(name: str) -> Callable[..., int] | None:
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    return found
