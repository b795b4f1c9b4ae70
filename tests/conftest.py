"""What every test runs under: one thread a process, and fixed examples from hypothesis."""

from __future__ import annotations

import os

# Before torch and numpy load: bits depend on the number of threads, and parallel tests would fight over the cores.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import hypothesis  # noqa: E402
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
