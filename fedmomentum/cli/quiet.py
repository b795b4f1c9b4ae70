"""Keeps the libraries below from talking over the progress panel, and a JSON answer clean."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from io import UnsupportedOperation

ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the behaviour whose absence Ray warns about in every process
    "GRPC_VERBOSITY": "ERROR",
}


def hush() -> None:
    """Silence Flower and Ray below errors, before they are imported; what the user's environment says goes first."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("flwr", "ray"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)
        # Both set their level again when they are imported or started, and the loggers below them go by it.
        logger.setLevel = _leave_it  # type: ignore[method-assign]
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"ray(\.|$)")


def _leave_it(level: int | str) -> None:
    """Stand in for ``Logger.setLevel``."""


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send what anyone prints to stderr meanwhile: Python code, C libraries and child processes alike."""
    sys.stdout.flush()
    with redirect_stdout(sys.stderr):
        saved = None
        with suppress(UnsupportedOperation, AttributeError, OSError):  # no real file under it, as in a notebook
            out, err = sys.__stdout__.fileno(), sys.__stderr__.fileno()  # type: ignore[union-attr]
            saved = os.dup(out)
            os.dup2(err, out)
        try:
            yield
        finally:
            sys.stderr.flush()
            if saved is not None:
                os.dup2(saved, out)
                os.close(saved)
