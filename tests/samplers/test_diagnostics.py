"""Diagnostics against closed forms and against arviz."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmomentum.samplers.diagnostics import e_bfmi, ess, mcse, r_hat
from fedmomentum.streams import stream


def chains(kind: str, draws: int = 400) -> Tensor:
    """Give ``[draws, 4, 3]`` of one kind of trouble."""
    rng = stream(0, "chains")
    x = rng.standard_normal((draws, 4, 3))
    if kind in ("slow", "alternating"):
        phi = 0.9 if kind == "slow" else -0.6
        for t in range(1, draws):
            x[t] = phi * x[t - 1] + np.sqrt(1 - phi**2) * x[t]
    elif kind == "shifted":
        x[:, 0] += 1.0
    elif kind == "scaled":
        x[:, 0] *= 3.0
    elif kind == "drifting":
        x += np.linspace(0, 2, draws)[:, None, None]
    elif kind == "heavy":
        x = rng.standard_cauchy(x.shape)
    elif kind == "ties":
        x = np.round(x)
    return torch.from_numpy(x)


KINDS = ["independent", "slow", "alternating", "shifted", "scaled", "drifting", "heavy", "ties"]


@pytest.mark.parametrize("draws", [400, 101])
@pytest.mark.parametrize("kind", KINDS)
def test_against_arviz(kind: str, draws: int) -> None:
    arviz = pytest.importorskip("arviz")
    x = chains(kind, draws)
    for i in range(3):
        ours, theirs = x[..., i], x[..., i].T.numpy()  # arviz wants chains first
        for name in ("bulk", "tail", "mean"):
            wanted = float(arviz.ess(theirs, method=name))
            assert float(ess(ours, kind=name)) == pytest.approx(wanted, rel=1e-9)  # type: ignore[arg-type]
        assert float(r_hat(ours)) == pytest.approx(float(arviz.rhat(theirs)), rel=1e-9)
        assert float(mcse(ours)) == pytest.approx(float(arviz.mcse(theirs, method="mean")), rel=1e-9)
        np.testing.assert_allclose(e_bfmi(ours).numpy(), arviz.bfmi(theirs), rtol=1e-9)


@pytest.mark.parametrize("phi", [-0.5, 0.0, 0.5, 0.9])
def test_ess_of_an_autoregression(phi: float) -> None:
    """An AR(1) has ``ESS = n (1 - phi) / (1 + phi)``, and its mean an error of ``sd / sqrt(ESS)``."""
    rng = stream(1, "ar")
    n, c, p = 4000, 4, 30
    x = rng.standard_normal((n, c, p))
    for t in range(1, n):
        x[t] = phi * x[t - 1] + np.sqrt(1 - phi**2) * x[t]
    wanted = n * c * (1 - phi) / (1 + phi)
    draws = torch.from_numpy(x)
    for kind in ("bulk", "mean"):
        assert float(ess(draws, kind=kind).mean()) == pytest.approx(wanted, rel=0.06)  # type: ignore[arg-type]
    torch.testing.assert_close(mcse(draws).mean(), torch.tensor(wanted**-0.5).double(), rtol=0.05, atol=0)
    z = draws.mean((0, 1)) / mcse(draws)
    assert 0.6 < float(z.std()) < 1.5


def test_ess_of_the_tails_is_that_of_the_worse_quantile() -> None:
    """Chains that are stuck in their upper tail alone are found out by the tail, not by the bulk."""
    x = chains("independent", 1000)[..., 0].clone()
    top = x > 1.2816  # ten per cent
    for c in range(4):
        held = x[:, c][top[:, c]]
        x[:, c][top[:, c]] = held.sort().values if c % 2 else held.sort(descending=True).values
    assert float(ess(x, kind="tail")) < 0.5 * float(ess(x, kind="bulk"))


@pytest.mark.parametrize(
    ("kind", "fine"),
    [("independent", True), ("alternating", True), ("shifted", False), ("scaled", False), ("drifting", False)],
)
def test_r_hat_sees_chains_that_disagree(kind: str, fine: bool) -> None:
    found = r_hat(chains(kind))
    assert found.shape == (3,)
    assert bool((found < 1.01).all()) if fine else bool((found > 1.03).all())


def test_r_hat_of_a_shift_by_hand() -> None:
    """Where ranks are normal to begin with: two chains a distance d apart have ``R^2 -> 1 + B``, d / 2 each way."""
    n, d = 20000, 0.5
    x = torch.from_numpy(stream(2, "x").standard_normal((n, 2)))
    x[:, 0] += d
    within = 1 / (1 + d**2 / 4)  # of the scores, whose pooled variance is one
    between = (1 - within) * 4 / 3  # four half chains: the sample variance of +-d/2, +-d/2 divides by three
    assert float(r_hat(x)) == pytest.approx((1 + between / within) ** 0.5, rel=3e-3)


def test_e_bfmi() -> None:
    """Independent energies give 2, a random walk of small steps nearly 0."""
    e = torch.from_numpy(stream(3, "e").standard_normal((5000, 2)))
    torch.testing.assert_close(e_bfmi(e), torch.full((2,), 2.0).double(), rtol=0.05, atol=0)
    assert float(e_bfmi(e.cumsum(0)).max()) < 0.05


def test_shapes_and_what_cannot_be_said() -> None:
    x = torch.from_numpy(stream(4, "x").standard_normal((50, 3, 2, 5)))
    x[..., 0, 0] = 1.0
    for f in (ess, r_hat, mcse):
        assert f(x).shape == (2, 5)
    assert bool(torch.isnan(r_hat(x)[0, 0]))
    assert float(ess(x)[0, 0]) == 150.0
    assert bool(torch.isfinite(ess(x)).all())
    with pytest.raises(ValueError, match="at least 4 draws"):
        ess(x[:3])
    with pytest.raises(ValueError, match="'bulk', 'tail' or 'mean'"):
        ess(x, kind="median")  # type: ignore[arg-type]
