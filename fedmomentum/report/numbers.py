"""Measured values and times as people read them, in pictures and on the screen alike."""

from __future__ import annotations

import math


def number(value: float | None) -> str:
    """Write a value with three decimals, with three digits where those would hide it, and none as ``-``."""
    if value is None:
        return "-"
    if math.isfinite(value) and (value == 0 or 0.01 <= abs(value) < 1000):
        return f"{value:.3f}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Write a time: ``0.4 s``, ``34 s``, ``2 min 05 s``, ``3 h 07 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def real(value: object) -> float:
    """Give a number as a float, one beyond the floats as an infinity, and NaN for what is no number."""
    if not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def rate(count: float) -> str:
    """Write a number of things a second: ``0.125``, ``12.5``, ``1,250``."""
    return f"{count:.3g}" if count < 999.5 else f"{count:,.0f}"


def size(count: float) -> str:
    """Write a number of bytes: ``96 B``, ``1.5 kB``, ``2.25 MB``; a kilobyte is 1000 bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB" if abs(count) < 999.5 else f"{count:.0f} TB"


def plural(count: float, unit: str) -> str:
    """Write a number of things: ``1 round``, ``20 rounds``."""
    return f"{count:,.0f} {unit}{'' if count == 1 else 's'}"
