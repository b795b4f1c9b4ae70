"""Step sizes that change: functions of the step, counted from 0, that are plain data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, pi
from types import MappingProxyType
from typing import Any

from fedmomentum.optim.hyper import HyperparameterError, Schedule, checked, unknown, whole


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Stay: ``lr(t) = value``.

    Args:
        value: at least 0.
    """

    value: float

    def __post_init__(self) -> None:
        """Check the numbers."""
        checked("value", self.value, 0.0)

    def __call__(self, step: int) -> float:
        """Give the value at a step."""
        return self.value


@dataclass(frozen=True, kw_only=True)
class StepDecay:
    """Fall by a factor every few steps: ``lr(t) = value factor^floor(t / every)``.

    Args:
        value: at the start, at least 0.
        every: steps from one fall to the next, at least 1.
        factor: in [0, 1].
    """

    value: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        """Check the numbers."""
        checked("value", self.value, 0.0)
        whole("every", self.every, 1)
        checked("factor", self.factor, 0.0, 1.0)

    def __call__(self, step: int) -> float:
        """Give the value at a step."""
        return float(self.value * self.factor ** (step // self.every))


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Fall along half a cosine: ``lr(t) = floor + (value - floor) (1 + cos(pi t / steps)) / 2``, then rest.

    Args:
        value: at the start, at least ``floor``.
        steps: how long the fall takes, at least 1.
        floor: at the end, at least 0.

    Reference: arXiv:1608.03983, without restarts.
    """

    value: float
    steps: int
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        checked("floor", self.floor, 0.0)
        checked("value", self.value, self.floor)
        whole("steps", self.steps, 1)

    def __call__(self, step: int) -> float:
        """Give the value at a step."""
        if step >= self.steps:
            return self.floor
        return self.floor + (self.value - self.floor) * (1.0 + cos(pi * step / self.steps)) / 2.0


@dataclass(frozen=True)
class Warmup:
    """Climb in a line to where a schedule starts: ``lr(t) = schedule(0) (t + 1) / (steps + 1)`` for ``t < steps``.

    Then ``lr(t) = schedule(t - steps)``. The first step is never lost on ``lr = 0``.

    Args:
        schedule: what follows.
        steps: how long the climb takes, at least 0.
    """

    schedule: Schedule
    steps: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not callable(self.schedule):
            raise HyperparameterError(f"schedule must be a function of the step, not {self.schedule!r}")
        whole("steps", self.steps, 0)

    def __call__(self, step: int) -> float:
        """Give the value at a step."""
        if step < self.steps:
            return self.schedule(0) * (step + 1) / (self.steps + 1)
        return self.schedule(step - self.steps)


SCHEDULES: Mapping[str, Callable[..., Schedule]] = MappingProxyType(
    {"constant": Constant, "step": StepDecay, "cosine": Cosine}
)
"""Name -> class."""


def make_schedule(name: str, *, warmup: int = 0, **options: Any) -> Schedule:
    """Make a schedule of a name and options, with a linear warm-up of ``warmup`` steps in front.

    Example:
        >>> lr = make_schedule("cosine", value=0.1, steps=1000, floor=0.001, warmup=20)

    Raises:
        HyperparameterError: no such schedule or option (the message gives the near name), an option is missing, or a
            value is out of range.
    """
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    known = inspect.signature(SCHEDULES[name]).parameters
    for key in options:
        if key not in known:
            raise unknown(f"option of schedule '{name}'", key, [*known, "warmup"])
    for key, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and key not in options:
            raise HyperparameterError(f"schedule '{name}' needs {key}")
    schedule = SCHEDULES[name](**options)
    return Warmup(schedule, warmup) if whole("warmup", warmup, 0) else schedule
