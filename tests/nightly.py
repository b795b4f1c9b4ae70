"""How much a property is tried: a fixed handful in CI, ten thousand new examples at night."""

from __future__ import annotations

import os

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"


def examples(ci: int) -> int:
    """Give the number of examples of a property that CI tries ``ci`` times."""
    return 10_000 if NIGHTLY else ci
