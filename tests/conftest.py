"""What every test runs under: one thread a process, and fixed examples from hypothesis."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

# Before torch and numpy load: bits depend on the number of threads, and parallel tests would fight over the cores.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)

# `ci` draws the same examples every time; `nightly` (HYPOTHESIS_PROFILE=nightly) looks for new ones, for hours.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile(
    "nightly",
    deadline=None,
    derandomize=False,
    max_examples=10_000,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def _loud() -> Iterator[None]:
    """Undo the silence of a command that ran in this process: ``hush()`` is for one that ends with its command."""
    loggers = [logging.getLogger(name) for name in ("flwr", "ray")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (level, propagate) in zip(loggers, before, strict=True):
        if vars(logger).pop("setLevel", None) is not None:
            logger.setLevel(level)
            logger.propagate = propagate
