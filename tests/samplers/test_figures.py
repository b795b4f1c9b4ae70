"""Figures: matplotlib is loaded only to draw, and what is drawn agrees with what is predicted."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from fedmomentum.samplers import figures


def test_importing_does_not_load_matplotlib() -> None:
    code = "import sys, fedmomentum.samplers.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_hmc_banana_measures_a_slope_of_two() -> None:
    _, right = figures.figure_hmc_banana(seed=1).axes
    measured, predicted = right.lines
    slope = np.polyfit(np.log(measured.get_xdata()), np.log(measured.get_ydata()), 1)[0]
    assert abs(slope - 2) < 0.1
    np.testing.assert_allclose(measured.get_ydata(), predicted.get_ydata(), rtol=0.3)
