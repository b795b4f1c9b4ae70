"""Numbers that change with the step: a hyperparameter is a float, one value a chain ``[C]``, or ``step -> float``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from fedmomentum.trees import Tree, align

Schedule: TypeAlias = Callable[[int], float]
Value: TypeAlias = float | Tensor
Hyper: TypeAlias = float | Tensor | Schedule


def value_at(hyper: Hyper, count: Tensor) -> Value:
    """Give a hyperparameter at the step ``count`` (from 0), one count a model or chain."""
    if not callable(hyper) or isinstance(hyper, Tensor):
        return hyper
    numbers = count.flatten().tolist()
    if len(set(numbers)) == 1:
        return hyper(numbers[0])
    table = {n: hyper(n) for n in set(numbers)}
    values = torch.tensor([table[n] for n in numbers], dtype=torch.float64, device=count.device)
    return values.reshape(count.shape)


def times(tree: Tree, value: Value) -> Tree:
    """Give ``value * tree`` in the dtype of the tree; a value ``[C]`` scales chain by chain."""
    return {name: x * _like(value, x) for name, x in tree.items()}


def _like(value: Value, x: Tensor) -> Value:
    aligned = align(value, x)
    return aligned.to(x) if isinstance(aligned, Tensor) else aligned


def root(value: Value) -> Value:
    """Give the square root of a float or a tensor."""
    return value.sqrt() if isinstance(value, Tensor) else math.sqrt(value)


def each(value: Value, count: Tensor) -> Tensor:
    """Give a value as float64 of the shape of ``count``: what a kernel reports, one number a chain."""
    return torch.as_tensor(value, dtype=torch.float64, device=count.device).expand(count.shape)


def polynomial(*, scale: float, offset: float = 1.0, power: float = 0.55) -> Schedule:
    """Give the decreasing step ``scale (offset + t)^-power`` of SGLD.

    Args:
        scale: positive; the step times ``offset^power`` at t = 0.
        offset: positive, in steps.
        power: in (0.5, 1], so that the steps sum to infinity and their squares do not.

    Raises:
        ValueError: a number is out of its range.

    Source: Welling and Teh 2011, Bayesian learning via stochastic gradient Langevin dynamics.
    """
    if scale <= 0 or offset <= 0 or not 0.5 < power <= 1:
        raise ValueError(f"need scale > 0, offset > 0, power in (0.5, 1], not {scale}, {offset}, {power}")
    return lambda step: scale * (offset + step) ** -power
