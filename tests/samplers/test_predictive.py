"""Calibration, likelihood and entropy of probabilities, and which draws are kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedmomentum.samplers.predictive import (
    Schedule,
    calibration_error,
    entropy,
    negative_log_likelihood,
    reliability,
)
from fedmomentum.streams import stream


def test_labels_drawn_from_the_probabilities_are_calibrated() -> None:
    rng = stream(0, "labels")
    p = rng.dirichlet(np.ones(4) * 0.7, 200_000)
    y = torch.from_numpy((p.cumsum(1) < rng.random((len(p), 1))).sum(1))
    found = reliability(torch.from_numpy(p), y)
    assert calibration_error(found) < 0.005
    assert float(found.number.sum()) == len(p)
    sure = torch.from_numpy(p**3 / (p**3).sum(1, keepdims=True))  # the same guesses, too sure of themselves
    assert calibration_error(reliability(sure, y)) > 0.1


def test_calibration_error_by_hand() -> None:
    """Two bins of four: confidences 0.6 (half right) and 1.0 (all right)."""
    p = torch.tensor([[0.6, 0.4], [0.4, 0.6], [1.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([0, 0, 0, 1])
    assert calibration_error(reliability(p, y, bins=2)) == pytest.approx(abs((0.6 + 0.6 + 2) / 4 - 3 / 4))
    assert calibration_error(reliability(p, y, bins=5)) == pytest.approx(0.5 * 0.1)


def test_likelihood_and_entropy_are_those_of_scipy_and_torch() -> None:
    stats = pytest.importorskip("scipy.stats")
    p = torch.from_numpy(stream(1, "p").dirichlet(np.ones(5), 50))
    y = torch.arange(50) % 5
    assert negative_log_likelihood(p, y) == pytest.approx(float(torch.nn.functional.nll_loss(p.log(), y)))
    assert entropy(p) == pytest.approx(float(stats.entropy(p.numpy(), axis=1).mean()))
    assert entropy(torch.full((3, 8), 0.125)) == pytest.approx(math.log(8))
    assert entropy(torch.eye(3)) == 0.0 and math.isfinite(
        negative_log_likelihood(torch.eye(3), torch.tensor([1, 1, 1]))
    )


def test_averaging_never_hurts_the_likelihood() -> None:
    """Jensen: the log of a mean is at least the mean of the logs."""
    rng = stream(2, "members")
    members = torch.from_numpy(rng.dirichlet(np.ones(4), (6, 100)))
    y = torch.arange(100) % 4
    each = sum(negative_log_likelihood(m, y) for m in members) / 6
    assert negative_log_likelihood(members.mean(0), y) < each


def test_a_full_schedule_keeps_every_other_draw() -> None:
    schedule = Schedule(burn_in=10, every=2, most=4)
    assert [r for r in range(1, 18) if schedule.due(r)] == [12, 14, 16]
    assert [r for r in range(1, 24) if schedule.sparser().due(r)] == [14, 18, 22]
