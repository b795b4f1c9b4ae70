"""The curvature that a model feels, from Hessian-vector products alone: no Hessian is ever formed.

A momentum rule sees a loss through the eigenvalues of its Hessian, so each probe of damping, stability or conditioning
starts here. One product costs about two gradients; Lanczos finds the ends of the spectrum in some ten of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from fedmomentum.analogies.result import Array
from fedmomentum.trees import Tree

Loss: TypeAlias = Callable[[Tree], Tensor]
"""A scalar loss of named parameters, such as ``lambda p: cross_entropy(functional_call(model, p, x), y)``."""

Product: TypeAlias = Callable[[Tensor], Tensor]
"""A symmetric linear map on flat vectors ``[P]``."""


def flatten(tree: Mapping[str, Tensor]) -> Tensor:
    """Give a tree as one vector ``[P]``, in the tree's order."""
    return torch.cat([x.reshape(-1) for x in tree.values()])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> Tree:
    """Undo :func:`flatten`.

    Raises:
        ValueError: the vector's length is not the tree's.
    """
    sizes = [x.numel() for x in like.values()]
    if vector.shape != (sum(sizes),):
        raise ValueError(f"a vector of shape {list(vector.shape)} does not fill a tree of {sum(sizes)} numbers")
    return {name: part.view(x.shape) for (name, x), part in zip(like.items(), torch.split(vector, sizes), strict=True)}


def hessian_product(loss: Loss, params: Mapping[str, Tensor]) -> Product:
    """Give ``v -> H v`` of a loss, by differentiating its gradient once more; the graph is built once.

    Args:
        loss: of the named parameters.
        params: where to look; they are not changed.
    """
    leaves = {name: x.detach().requires_grad_(True) for name, x in params.items()}
    with torch.enable_grad():
        grads = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True, materialize_grads=True)
        gradient = torch.cat([g.reshape(-1) for g in grads])

    def product(v: Tensor) -> Tensor:
        if not gradient.requires_grad:
            return torch.zeros_like(v)
        parts = torch.autograd.grad(
            gradient, list(leaves.values()), grad_outputs=v, retain_graph=True, materialize_grads=True
        )
        return torch.cat([h.reshape(-1) for h in parts])

    return product


def difference_product(
    gradient: Callable[[Tree], Tree], params: Mapping[str, Tensor], *, step: float = 1e-3
) -> Product:
    """Give ``v -> H v`` from gradients alone, for models that cannot be differentiated twice.

        H v = |v| (g(x + e v/|v|) - g(x - e v/|v|)) / (2 e),   error O(e^2)

    Args:
        gradient: of the named parameters.
        params: where to look.
        step: e, in the units of the parameters; for float32, 1e-3 to 1e-2 balances rounding and curvature change.
    """
    if not step > 0:
        raise ValueError(f"step must be positive, not {step}")
    here = flatten(params).detach()

    def product(v: Tensor) -> Tensor:
        size = float(v.norm())
        if size == 0:
            return torch.zeros_like(v)
        ahead = flatten(gradient(unflatten(here + step / size * v, params)))
        behind = flatten(gradient(unflatten(here - step / size * v, params)))
        return (ahead - behind) * (size / (2 * step))

    return product


@dataclass(frozen=True)
class Ritz:
    """What Lanczos learns of a spectrum.

    Args:
        values: Ritz values ``[m]``, ascending; the ends converge to eigenvalues first.
        weights: squared first components ``[m]``, summing to one: with ``values`` the Gauss quadrature of the spectral
            density that the starting vector sees.
        bounds: ``[m]``; an eigenvalue lies within ``bounds[i]`` of ``values[i]``.
        top: unit vector ``[P]`` of the largest value.
    """

    values: Array
    weights: Array
    bounds: Array
    top: Tensor

    @property
    def largest(self) -> float:
        """The sharpness: the largest Ritz value."""
        return float(self.values[-1])

    @property
    def smallest(self) -> float:
        """The smallest Ritz value; negative at a saddle."""
        return float(self.values[0])


def lanczos(product: Product, size: int, *, steps: int = 12, seed: int = 0, like: Tensor | None = None) -> Ritz:
    """Find the ends of a symmetric map's spectrum, with full reorthogonalisation.

    Args:
        product: the map.
        size: P.
        steps: products to spend, at most P of them; 8 to 20 are enough for the sharpness.
        seed: of the stream "lanczos" that draws the starting vector.
        like: a tensor whose dtype and device the vectors take; float64 on the CPU unless given.

    Raises:
        ValueError: ``steps`` or ``size`` is not positive.
        FloatingPointError: the map gave a value that is not finite.

    Source: Lanczos 1950; arXiv:1901.10159 for neural networks.
    """
    from fedmomentum.streams import torch_stream

    if steps < 1 or size < 1:
        raise ValueError(f"Lanczos needs positive steps and size, not {steps} and {size}")
    dtype, device = (torch.float64, torch.device("cpu")) if like is None else (like.dtype, like.device)
    v = torch.randn(size, generator=torch_stream(seed, "lanczos"), dtype=torch.float64).to(device, dtype)
    v = v / v.norm()
    basis, diagonal, beside = [v], [], []
    for _ in range(min(steps, size)):
        w = product(basis[-1])
        alpha = float(torch.dot(w, basis[-1]))
        if not np.isfinite(alpha):
            raise FloatingPointError("a Hessian-vector product is not finite: the model has diverged here")
        diagonal.append(alpha)
        block = torch.stack(basis)
        for _ in range(2):  # twice is enough: once leaves errors of the size of rounding times the cancellation
            w = w - block.T @ (block @ w)
        beta = float(w.norm())
        beside.append(beta)
        if beta <= 1e-6 * max(map(abs, diagonal)) or len(diagonal) == size:
            break
        basis.append(w / beta)
    m = len(diagonal)
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside[: m - 1], 1) + np.diag(beside[: m - 1], -1))
    top = torch.stack(basis[:m]).T @ torch.as_tensor(vectors[:, -1].copy(), dtype=dtype, device=device)
    return Ritz(
        values=values, weights=vectors[0] ** 2, bounds=np.abs(beside[m - 1] * vectors[-1]), top=top / top.norm()
    )


def sharpness(loss: Loss, params: Mapping[str, Tensor], *, steps: int = 12, seed: int = 0) -> Ritz:
    """Give the spectrum's ends of a loss at ``params``: :func:`lanczos` on :func:`hessian_product`."""
    vector = flatten(params)
    return lanczos(hessian_product(loss, params), vector.numel(), steps=steps, seed=seed, like=vector.detach())


def secant(gradients: Tensor, points: Tensor) -> Array:
    """Give the curvature along each step of a path, free of extra gradients.

        h_t = <g_{t+1} - g_t, x_{t+1} - x_t> / |x_{t+1} - x_t|^2

    Args:
        gradients: ``[T, P]``, all of one loss (differences between minibatches would be read as curvature).
        points: ``[T, P]`` where they were taken.

    Returns:
        ``[T - 1]``; zero where the point did not move.
    """
    if gradients.shape != points.shape:
        raise ValueError(f"gradients {list(gradients.shape)} and points {list(points.shape)} differ in shape")
    dg, dx = gradients.diff(dim=0).double(), points.diff(dim=0).double()
    moved = (dx * dx).sum(1)
    return np.asarray(torch.where(moved > 0, (dg * dx).sum(1) / moved.clamp_min(1e-300), 0.0).cpu().numpy())
