"""Gradients of stacked chains: from a potential, from minibatches, or from a function that a caller has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import grad, vmap

from fedmomentum.samplers.kernel import Estimate, Gradient, Potential
from fedmomentum.samplers.noise import fold, integers, normal_like
from fedmomentum.trees import Tree


def potential_of(log_density: Potential) -> Potential:
    """Give the potential ``U = -log density``."""
    return lambda x: -log_density(x)


def both_of(values: Callable[[Tree], Tensor]) -> Callable[[Tree], tuple[Tensor, Tree]]:
    """Give ``x [C, *shape] -> (U [C], dU [C, *shape])`` of a potential of stacked points: one backward pass for all."""

    def at(position: Tree) -> tuple[Tensor, Tree]:
        with torch.enable_grad():
            leaves = {name: x.detach().requires_grad_() for name, x in position.items()}
            found = values(leaves)
            if found.ndim != 1:
                raise ValueError(f"a potential gives one number a point, not the shape {list(found.shape[1:])}")
            grads = torch.autograd.grad(found.sum(), list(leaves.values()))
        return found.detach(), dict(zip(leaves, grads, strict=True))

    return at


def value_and_gradient(potential: Potential) -> Callable[[Tree], tuple[Tensor, Tree]]:
    """Give ``x [C, *shape] -> (U [C], dU [C, *shape])`` of a potential of one point."""
    return both_of(vmap(potential))


def gradient_of(potential: Potential) -> Gradient:
    """Give the gradient of stacked points by automatic differentiation of a potential of one point."""
    both = value_and_gradient(potential)
    return lambda position: both(position)[1]


def estimate_from(
    potential: Potential | None = None, gradient: Gradient | None = None, estimate: Estimate | None = None
) -> Estimate:
    """Give the one estimate that a kernel uses, from whichever of the three a caller has.

    Raises:
        ValueError: none or more than one was given.
    """
    if sum(given is not None for given in (potential, gradient, estimate)) != 1:
        raise ValueError("give exactly one of potential, gradient and estimate")
    if estimate is not None:
        return estimate
    exact = gradient if gradient is not None else gradient_of(potential)  # type: ignore[arg-type]
    return lambda position, keys: exact(position)


def minibatch(
    loss: Callable[..., Tensor], data: Sequence[Tensor], *, batch_size: int, prior: Potential | None = None
) -> Estimate:
    """Give ``d [prior(x) + (N / B) sum_{b in batch} loss(x, example_b)]``, each chain on a minibatch of its own.

    Args:
        loss: ``loss(x, *batch) -> [B]``, the negative log-likelihood of every example of a batch at one point.
        data: tensors ``[N, ...]`` with the examples along the first axis.
        batch_size: B, drawn with replacement.
        prior: the negative log-density of the prior; none is flat.

    Raises:
        ValueError: the tensors of ``data`` differ in length, or ``batch_size`` is not positive.
    """
    lengths = {len(x) for x in data}
    if len(lengths) != 1 or batch_size < 1:
        raise ValueError(f"data of one length and a positive batch_size are needed, not {lengths} and {batch_size}")
    total = lengths.pop()

    def objective(point: Tree, *batch: Tensor) -> Tensor:
        fit = loss(point, *batch).sum() * (total / batch_size)
        return fit if prior is None else fit + prior(point)

    stacked = vmap(grad(objective))

    def estimate(position: Tree, keys: Tensor) -> Tree:
        rows = integers(keys, batch_size, total)
        grads: Tree = stacked(position, *(x[rows] for x in data))
        return grads

    return estimate


def noisy(gradient: Gradient, variance: float) -> Estimate:
    """Give ``dU + N(0, variance)`` in every coordinate: the noise of minibatches or of client sampling, idealised."""

    def estimate(position: Tree, keys: Tensor) -> Tree:
        noise = normal_like(fold(keys, 0), position)
        return {name: g + variance**0.5 * noise[name] for name, g in gradient(position).items()}

    return estimate
