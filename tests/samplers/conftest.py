"""What the tests of the samplers share: an average held against a number, with the error bar that the draws give."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedmomentum.samplers.diagnostics import mcse

Agree = Callable[..., None]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def agree() -> Agree:
    """Hold the mean of draws ``[S, C, ...]`` against a number: within 4.5 standard errors, small enough to tell."""

    def check(draws: Tensor, expected: Tensor | float, *, resolution: float) -> None:
        expected = torch.as_tensor(expected, dtype=torch.float64)
        error = mcse(draws)
        assert (error <= resolution).all(), f"the error bar {error.tolist()} is too wide to say anything"
        off = (draws.double().mean((0, 1)) - expected) / error
        assert (off.abs() <= 4.5).all(), f"off by {off.tolist()} standard errors from {expected.tolist()}"

    return check
