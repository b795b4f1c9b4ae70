"""Cyclical step sizes: explore with large steps, then sample with small ones, again and again."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cyclical:
    """Step ``t`` (from 0) -> ``peak / 2 (cos(pi r) + 1)``, ``r = (t mod L) / L``, ``L = ceil(steps / cycles)``.

    While ``r < exploration`` the temperature is 0, so that the large steps look for a mode; then it is ``heat``, and
    samples are kept. Usable wherever a kernel takes a step size::

        cycle = Cyclical(peak=0.1, steps=4000, cycles=8)
        kernel = sgld(potential, step_size=cycle, temperature=cycle.temperature)
        draws = run(kernel, position, 4000, seed=0, keep=cycle.keeps)

    Args:
        peak: the step size at the start of a cycle, positive.
        steps: of the whole run.
        cycles: how many there are.
        exploration: the fraction of a cycle without noise, in [0, 1).
        heat: the temperature of the sampling stage.

    Raises:
        ValueError: a number is out of its range.

    Source: arXiv:1902.03932.
    """

    peak: float
    steps: int
    cycles: int
    exploration: float = 0.8
    heat: float = 1.0

    def __post_init__(self) -> None:  # noqa: D105
        if self.peak <= 0 or self.heat < 0 or not 0 <= self.exploration < 1:
            raise ValueError(f"need peak > 0, heat >= 0, exploration in [0, 1): {self}")
        if not 1 <= self.cycles <= self.steps:
            raise ValueError(f"need 1 <= cycles <= steps: {self}")

    @property
    def length(self) -> int:
        """The steps of one cycle."""
        return math.ceil(self.steps / self.cycles)

    def _place(self, step: int) -> float:
        return (step % self.length) / self.length

    def __call__(self, step: int) -> float:
        """Give the step size."""
        return 0.5 * self.peak * (math.cos(math.pi * self._place(step)) + 1.0)

    def keeps(self, step: int) -> bool:
        """Say whether this step belongs to a sampling stage."""
        return self._place(step) >= self.exploration

    def temperature(self, step: int) -> float:
        """Give the temperature: 0 while exploring, ``heat`` while sampling."""
        return self.heat if self.keeps(step) else 0.0
