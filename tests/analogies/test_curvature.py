from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmomentum.analogies.curvature import (
    difference_product,
    flatten,
    hessian_product,
    lanczos,
    secant,
    sharpness,
    unflatten,
)
from fedmomentum.trees import Tree


def network() -> tuple[object, Tree]:
    torch.manual_seed(0)
    x, y = torch.randn(40, 5, dtype=torch.float64), torch.randn(40, dtype=torch.float64)
    params = {"w": torch.randn(5, 6).double(), "b": torch.randn(6).double(), "v": torch.randn(6).double()}

    def loss(p: Tree) -> Tensor:
        return ((torch.tanh(x @ p["w"] + p["b"]) @ p["v"] - y) ** 2).mean()

    return loss, params


def dense_hessian(loss: object, params: Tree) -> Tensor:
    return torch.autograd.functional.hessian(lambda v: loss(unflatten(v, params)), flatten(params))


def test_products_are_the_hessians() -> None:
    loss, params = network()
    hessian = dense_hessian(loss, params)
    v = torch.randn(len(hessian), dtype=torch.float64)
    exact = hessian_product(loss, params)
    torch.testing.assert_close(exact(v), hessian @ v)
    torch.testing.assert_close(exact(2 * v), 2 * hessian @ v)  # the graph serves again

    def gradient(p: Tree) -> Tree:
        leaves = {n: t.detach().requires_grad_(True) for n, t in p.items()}
        return dict(zip(leaves, torch.autograd.grad(loss(leaves), list(leaves.values())), strict=True))

    errors = [float((difference_product(gradient, params, step=e)(v) - hessian @ v).norm()) for e in (2e-2, 1e-2)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)  # second order
    assert not difference_product(gradient, params)(torch.zeros_like(v)).any()


def test_lanczos_finds_the_spectrum() -> None:
    loss, params = network()
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(loss, params)).numpy()
    few = sharpness(loss, params, steps=15)
    assert few.largest == pytest.approx(eigenvalues[-1], rel=1e-4)
    assert few.smallest == pytest.approx(eigenvalues[0], rel=0.1)
    for value, bound in zip(few.values, few.bounds, strict=True):
        assert np.abs(eigenvalues - value).min() <= bound + 1e-9
    full = sharpness(loss, params, steps=100)
    np.testing.assert_allclose(full.values, eigenvalues, atol=1e-8 * eigenvalues[-1])
    assert few.weights.sum() == pytest.approx(1)


def test_top_vector_is_an_eigenvector() -> None:
    loss, params = network()
    ritz = sharpness(loss, params, steps=40)
    image = hessian_product(loss, params)(ritz.top)
    torch.testing.assert_close(image, ritz.largest * ritz.top, atol=1e-6 * ritz.largest, rtol=0)


def test_lanczos_stops_when_the_space_is_exhausted() -> None:
    ritz = lanczos(lambda v: 3 * v, 50, steps=10)
    np.testing.assert_allclose(ritz.values, [3.0])
    assert ritz.bounds[0] < 1e-12
    values = torch.tensor([1.0, 2.0, 5.0]).double()
    np.testing.assert_allclose(lanczos(lambda v: values * v, 3, steps=9).values, [1, 2, 5])


def test_lanczos_keeps_single_precision() -> None:
    _, params = network()
    single = {n: t.float() for n, t in params.items()}
    x, y = torch.randn(40, 5), torch.randn(40)

    def loss32(p: Tree) -> Tensor:
        return ((torch.tanh(x @ p["w"] + p["b"]) @ p["v"] - y) ** 2).mean()

    ritz = sharpness(loss32, single, steps=15)
    assert ritz.top.dtype == torch.float32
    assert ritz.largest == pytest.approx(float(torch.linalg.eigvalsh(dense_hessian(loss32, single))[-1]), rel=1e-3)


def test_a_linear_loss_has_no_curvature() -> None:
    params = {"w": torch.ones(4)}
    assert not hessian_product(lambda p: p["w"].sum(), params)(torch.ones(4)).any()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="positive steps"):
        lanczos(lambda v: v, 3, steps=0)
    with pytest.raises(FloatingPointError, match="diverged"):
        lanczos(lambda v: v * torch.nan, 3)
    with pytest.raises(ValueError, match="does not fill"):
        unflatten(torch.zeros(3), {"w": torch.zeros(4)})
    with pytest.raises(ValueError, match="differ in shape"):
        secant(torch.zeros(3, 2), torch.zeros(3, 3))


def test_secant_is_the_curvature_of_a_quadratic() -> None:
    points = torch.randn(6, 3, dtype=torch.float64)
    np.testing.assert_allclose(secant(2.5 * points, points), 2.5)
    still = torch.zeros(3, 2, dtype=torch.float64)
    np.testing.assert_allclose(secant(still, still), 0)
