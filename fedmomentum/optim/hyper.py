"""Hyperparameters: one number for all copies of a model, or one a copy; checked once, fitted to each tensor.

They are kept as Python floats or float64 tensors and rounded to a tensor's own dtype where they meet it, so that a
``[K]`` tensor of values gives the same bits as K runs with one float each.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import TypeAlias

import torch
from torch import Tensor

from fedmomentum.errors import UserError
from fedmomentum.trees import align

Hyper: TypeAlias = float | Tensor
"""A number, or a tensor ``[K]`` with one number for each of K stacked copies."""

Schedule: TypeAlias = Callable[[int], float]
"""Gives a number for each step, counted from 0."""


class HyperparameterError(UserError, ValueError):
    """A hyperparameter or a name is wrong; the message names it, its value, and what would be right."""


def checked(
    name: str, value: Hyper, low: float = -math.inf, high: float = math.inf, *, below_high: bool = False
) -> Hyper:
    """Give ``value`` as a float (or a float64 tensor, one number a copy) that is finite and in ``[low, high]``.

    Args:
        name: what to call it in the message.
        value: a number or a tensor ``[K]``.
        low: the smallest value allowed.
        high: the largest value allowed.
        below_high: ``high`` itself is not allowed.

    Raises:
        HyperparameterError: it is not a number, not finite or out of range.
    """
    if isinstance(value, Tensor):
        numbers = value.detach().double()
        flat = [float(number) for number in numbers.flatten()]
        kept: Hyper = numbers if numbers.ndim else flat[0]
    elif isinstance(value, Real) and not isinstance(value, bool):
        kept = float(value)
        flat = [kept]
    else:
        raise HyperparameterError(f"{name} must be a number, not {value!r}")
    for copy, number in enumerate(flat):
        inside = low <= number < high if below_high else low <= number <= high
        if not (inside and math.isfinite(number)):
            where = f" (copy {copy})" if isinstance(kept, Tensor) else ""
            raise HyperparameterError(f"{name} must be {_interval(low, high, below_high)}, not {number:g}{where}")
    return kept


def _interval(low: float, high: float, below_high: bool) -> str:
    if math.isinf(low) and math.isinf(high):
        return "a finite number"
    if math.isinf(high):
        return f"a finite number of at least {low:g}"
    return f"in [{low:g}, {high:g}{')' if below_high else ']'}"


def checked_rate(lr: Hyper | Schedule) -> Hyper | Schedule:
    """Give a step size that is a schedule or numbers of at least zero."""
    return lr if callable(lr) else checked("lr", lr, 0.0)


def whole(name: str, value: int, low: int) -> int:
    """Give ``value``, a whole number of at least ``low``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise HyperparameterError(f"{name} must be a whole number of at least {low}, not {value!r}")
    return value


def unknown(what: str, name: object, known: Iterable[str]) -> HyperparameterError:
    """Make the error for a name that does not exist, with the nearest one that does."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names)}"
    return HyperparameterError(f"unknown {what} '{name}'; {hint}")


def fit(value: Hyper, like: Tensor) -> Hyper:
    """Give ``value`` ready for arithmetic with ``like``: ``[K]`` meets the leading axis, in the dtype of ``like``."""
    if isinstance(value, float):
        return value
    aligned = align(value, like)
    return aligned.to(like) if isinstance(aligned, Tensor) else aligned


def per_copy(f: Callable[..., float], count: Tensor, *values: Hyper) -> Hyper:
    """Give ``f(step, *values)``: one number where all copies agree on step and values, else one a copy (float64).

    Python's own floats are used and not a vectorised power, whose last bit depends on where in the vector a copy
    stands: how many clients are stacked must not change what each of them computes.

    Args:
        f: takes the step as an int and each value as a float.
        count: steps done so far, one a copy (or one for all).
        values: hyperparameters.
    """
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors:
        if count.ndim == 0:
            return f(int(count), *values)
        steps = count.flatten().tolist()
        if steps and steps.count(steps[0]) == len(steps):
            return f(steps[0], *values)
    like = max((count, *tensors), key=lambda tensor: tensor.ndim)
    columns = [_column(value, like) for value in (count, *values)]
    numbers = [f(int(step), *row) for step, *row in zip(*columns, strict=True)]
    return torch.tensor(numbers, dtype=torch.float64).reshape(like.shape)


def _column(value: Hyper, like: Tensor) -> list[float]:
    if not isinstance(value, Tensor):
        return [value] * like.numel()
    aligned = align(value, like)
    assert isinstance(aligned, Tensor)
    column: list[float] = aligned.expand(like.shape).flatten().tolist()
    return column


def rate_at(lr: Hyper | Schedule, count: Tensor) -> Hyper:
    """Give the step size after ``count`` steps.

    Raises:
        HyperparameterError: a schedule gave something that is not a finite number of at least zero.
    """
    if not callable(lr):
        return lr
    schedule = lr

    def rate(step: int) -> float:
        value = float(schedule(step))
        if not 0.0 <= value < math.inf:
            raise HyperparameterError(
                f"the lr schedule must give finite numbers of at least 0, not {value:g} (step {step})"
            )
        return value

    return per_copy(rate, count)
