"""Arithmetic on trees: flat mappings from tensor names to tensors that refuse to mix layouts.

A tree is what ``state_dict`` gives: ``{"fc.weight": Tensor, "fc.bias": Tensor}``. Every binary operation checks that
both sides hold the same names and shapes, because a silently broadcast shape is a wrong model that still trains.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Tree: TypeAlias = dict[str, Tensor]
"""Named tensors. Leading axes are free: one model ``[*shape]`` or K stacked clients ``[K, *shape]``."""

State: TypeAlias = dict[str, Tree]
"""Named slots of trees, such as ``{"velocity": {...}, "step": {"count": ...}}``: all of it is saved."""


def same_layout(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    """Refuse two trees that differ in names or shapes.

    Raises:
        KeyError: a name is in one tree only; the message names the tensor.
        ValueError: one tensor has two shapes; the message names it and both shapes.
    """
    if a.keys() != b.keys():
        name = sorted(a.keys() ^ b.keys())[0]
        side = "first" if name in a else "second"
        raise KeyError(f"tensor '{name}' is only in the {side} of the two trees")
    for name, x in a.items():
        if x.shape != b[name].shape:
            raise ValueError(f"tensor '{name}' has shape {list(x.shape)} and {list(b[name].shape)} in the two trees")


def borrowed(array: NDArray[Any]) -> Tensor:
    """Give a tensor in the memory of an array, which may be read-only: never write to it."""
    _warned()
    return torch.from_numpy(array)


@cache
def _warned() -> None:
    """Let torch warn, where nobody hears it, of memory that is read-only: it does so once in a process."""
    array = np.zeros(1)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(array)


def map_tree(f: Callable[..., Tensor], first: Mapping[str, Tensor], *rest: Mapping[str, Tensor]) -> Tree:
    """Apply ``f`` tensor by tensor to trees of one layout."""
    for other in rest:
        same_layout(first, other)
    return {name: f(x, *(other[name] for other in rest)) for name, x in first.items()}


def add(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tree:
    """Give ``a + b``."""
    return map_tree(torch.add, a, b)


def sub(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tree:
    """Give ``a - b``; the pseudo-gradient of a round is ``sub(old, new)``."""
    return map_tree(torch.sub, a, b)


def scale(a: Mapping[str, Tensor], factor: float | Tensor) -> Tree:
    """Give ``factor * a``; a factor of shape ``[K]`` scales K stacked trees one by one."""
    return {name: x * align(factor, x) for name, x in a.items()}


def zeros_like(a: Mapping[str, Tensor]) -> Tree:
    """Give a tree of zeros with the layout of ``a``."""
    return {name: torch.zeros_like(x) for name, x in a.items()}


def align(value: float | Tensor, like: Tensor) -> float | Tensor:
    """Give ``value`` trailing axes of length one, so that ``[K]`` values meet the leading axis of ``[K, *shape]``.

    Raises:
        ValueError: the value's axes are not the leading axes of ``like`` (nothing is broadcast by accident).
    """
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if value.shape != like.shape[: value.ndim]:
        raise ValueError(f"a value of shape {list(value.shape)} does not lead a tensor of shape {list(like.shape)}")
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim))


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, leading: int = 0) -> Tensor:
    """Give the inner product over every axis but the first ``leading`` ones, summed in float64."""
    same_layout(a, b)
    total: Tensor | None = None
    for name, x in a.items():
        term = (x.double() * b[name].double()).flatten(leading).sum(-1) if x.ndim > leading else x.double() * b[name]
        total = term if total is None else total + term
    return torch.zeros((), dtype=torch.float64) if total is None else total


def norm(a: Mapping[str, Tensor], *, leading: int = 0) -> Tensor:
    """Give the Euclidean norm over every axis but the first ``leading`` ones (float64)."""
    return dot(a, a, leading=leading).sqrt()


def stack(trees: Sequence[Mapping[str, Tensor]]) -> Tree:
    """Stack K trees of one layout into one with a leading axis of length K."""
    for other in trees[1:]:
        same_layout(trees[0], other)
    return {name: torch.stack([t[name] for t in trees]) for name in trees[0]}


def unstack(tree: Mapping[str, Tensor]) -> list[Tree]:
    """Undo :func:`stack`."""
    size = next(iter(tree.values())).shape[0]
    return [{name: x[k] for name, x in tree.items()} for k in range(size)]


def expand(tree: Mapping[str, Tensor], size: int) -> Tree:
    """Give ``size`` equal copies of a tree stacked on a new leading axis, in memory of their own."""
    return {name: x.expand(size, *x.shape).clone() for name, x in tree.items()}


def weighted_mean(trees: Iterable[Mapping[str, Tensor]], weights: Sequence[float]) -> Tree:
    """Give ``sum_i w_i x_i / sum_i w_i``, summed in the order given and in float64, in the dtypes of the first tree.

    Integer tensors (such as counters of batches) are averaged and rounded, so they keep their dtype.

    Raises:
        ValueError: there is no tree, or the weights do not sum to a positive finite number.
    """
    total = float(sum(weights))
    if not weights or not 0.0 < total < float("inf"):
        raise ValueError(f"weights must sum to a positive finite number, not {total}")
    sums: Tree = {}
    first: Mapping[str, Tensor] | None = None
    for tree, weight in zip(trees, weights, strict=True):
        if first is None:
            first = tree
            sums = {name: x.double() * weight for name, x in tree.items()}
        else:
            same_layout(first, tree)
            for name, x in tree.items():
                sums[name].add_(x.double() * weight)
    assert first is not None
    return {name: cast_like(sums[name] / total, x) for name, x in first.items()}


def cast_like(value: Tensor, like: Tensor) -> Tensor:
    """Give ``value`` in the dtype of ``like``, rounded to the nearest whole number where that is an integer type."""
    if value.dtype == like.dtype:
        return value
    return (value if like.dtype.is_floating_point else value.round()).to(like.dtype)


def fault(tree: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> str | None:
    """Say what is wrong with a tree that should look like another one, or give None.

    Checks names, shapes, dtypes and that every number is finite, and names the tensor at fault.
    """
    if tree.keys() != like.keys():
        missing, extra = sorted(like.keys() - tree.keys()), sorted(tree.keys() - like.keys())
        return f"tensor '{missing[0]}' is missing" if missing else f"tensor '{extra[0]}' is not in the model"
    for name, x in tree.items():
        if x.shape != like[name].shape:
            return f"tensor '{name}' has shape {list(x.shape)}, the model has {list(like[name].shape)}"
        if x.dtype != like[name].dtype:
            return f"tensor '{name}' is {_short(x.dtype)}, the model has {_short(like[name].dtype)}"
        if not bool(torch.isfinite(x).all()):
            return f"tensor '{name}' holds {'NaN' if bool(torch.isnan(x).any()) else 'infinite'} values"
    return None


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def num_bytes(tree: Mapping[str, Tensor]) -> int:
    """Give the bytes that a tree's numbers take."""
    return sum(x.numel() * x.element_size() for x in tree.values())
