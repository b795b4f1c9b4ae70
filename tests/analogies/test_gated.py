"""A GRU's safe learning rates: the same cell as torch's, the edge that its curvature predicts, and mutants of both."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from fedmomentum.analogies import gated, linear
from fedmomentum.analogies.curvature import Ritz
from fedmomentum.analogies.gated import Teacher, largest_stable, teacher
from fedmomentum.optim import make_rule as honest


@pytest.fixture(scope="module")
def gru() -> Teacher:
    return teacher(4, length=6, examples=5, seed=3)


@pytest.fixture(scope="module")
def ritz(gru: Teacher) -> Ritz:
    return gru.curvature()


def test_the_cell_is_torchs(gru: Teacher) -> None:
    hidden = torch.zeros(5, 4, dtype=torch.float64)
    for x in gru.inputs:
        hidden = torch.gru_cell(x, hidden, torch.eye(12, dtype=torch.float64), gru.weights)
    torch.testing.assert_close(gru.last(gru.weights), hidden, rtol=1e-13, atol=1e-15)


def test_the_sharpness_is_the_largest_eigenvalue(gru: Teacher, ritz: Ritz) -> None:
    hessian = torch.autograd.functional.hessian(gru.loss, gru.weights).view(48, 48)
    assert ritz.largest == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-8)


@pytest.mark.parametrize("form", linear.FORMS)
def test_the_edge_is_where_the_curvature_says(form: linear.Form, gru: Teacher, ritz: Ritz) -> None:
    momenta = (0.5, 0.9)
    for beta, edge in zip(momenta, largest_stable(gru, ritz, momenta, form=form, parts=32, steps=100), strict=True):
        assert edge == pytest.approx(linear.stability_limit(form, beta) / ritz.largest, rel=0.01)


@pytest.mark.parametrize(
    "mutant",
    [
        lambda name, **h: honest(name, **{**h, "lr": h["lr"] * 1.1}),
        lambda name, **h: honest(name, **{**h, "momentum": h["momentum"] * 0.9}),
        lambda name, **h: honest("sgd", lr=h["lr"]),
        lambda name, **h: honest("nesterov", **h),
    ],
    ids=["larger rate", "weaker momentum", "no velocity", "another form"],
)
def test_a_wrong_rule_has_its_edge_elsewhere(
    mutant: Any, gru: Teacher, ritz: Ritz, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gated, "make_rule", mutant)
    (edge,) = largest_stable(gru, ritz, (0.9,), parts=24, steps=80)
    assert edge != pytest.approx(3.8 / ritz.largest, rel=0.02)


def test_a_range_without_the_edge_gives_its_end(gru: Teacher, ritz: Ritz) -> None:
    values = ritz.values.copy()
    values[-1] *= 1e6
    (edge,) = largest_stable(gru, dataclasses.replace(ritz, values=values), (0.5,), parts=5, steps=40)
    assert edge == pytest.approx(2e4 / values[-1])
