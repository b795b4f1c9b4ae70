"""What an experiment says: claims, each a prediction beside its measurement and the error allowed between them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

Relation: TypeAlias = Literal["equal", "at_least", "at_most"]


@dataclass(frozen=True)
class Claim:
    """One prediction and what was measured.

        relative_error = |measured - predicted| / scale,   scale = |predicted| unless given

    Args:
        name: what is claimed, in words, with its condition.
        predicted: from the closed form.
        measured: from the experiment.
        tolerance: the relative error allowed.
        unit: of both numbers, such as ``steps`` or ``rad/step``; empty for pure numbers.
        scale: what the error is divided by; needed where the prediction is zero.
        relation: ``equal``; or ``at_least`` / ``at_most``, where ``predicted`` is a bound on the measurement and only
            going past it counts as an error.
    """

    name: str
    predicted: float
    measured: float
    tolerance: float
    unit: str = ""
    scale: float | None = None
    relation: Relation = "equal"

    def __post_init__(self) -> None:
        """Refuse a claim whose error cannot be formed."""
        if not self.tolerance >= 0:
            raise ValueError(f"claim '{self.name}': tolerance must not be negative, not {self.tolerance}")
        if self.scale is None and self.predicted == 0 and self.relation == "equal":
            raise ValueError(f"claim '{self.name}': a prediction of zero needs a scale for its error")

    @property
    def relative_error(self) -> float:
        """The error over its scale; infinite where the measurement is not a number."""
        if math.isnan(self.measured) or math.isnan(self.predicted):
            return math.inf
        if self.measured == self.predicted:
            return 0.0
        excess = self.measured - self.predicted
        if (self.relation == "at_least" and excess > 0) or (self.relation == "at_most" and excess < 0):
            return 0.0
        scale = abs(self.predicted) if self.scale is None else self.scale
        return abs(excess) / scale if scale > 0 else math.inf

    @property
    def holds(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.relative_error <= self.tolerance


@dataclass(frozen=True)
class Measured:
    """What one experiment gave.

    Args:
        analogy: name of the analogy in ``ANALOGIES``.
        settings: the options it ran with.
        claims: predictions and measurements.
        series: curves by name (arrays of float64), for plots and reports.
    """

    analogy: str
    settings: Mapping[str, Any]
    claims: tuple[Claim, ...]
    series: Mapping[str, Array] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return all(claim.holds for claim in self.claims)

    def __iter__(self) -> Iterator[Claim]:
        """Go through the claims."""
        return iter(self.claims)

    def __getitem__(self, name: str) -> Claim:
        """Give the claim of that name.

        Raises:
            KeyError: there is none; the message lists the names.
        """
        for claim in self.claims:
            if claim.name == name:
                return claim
        raise KeyError(f"no claim '{name}'; there are: {', '.join(claim.name for claim in self.claims)}")

    def rows(self) -> list[dict[str, Any]]:
        """Give the claims as plain rows, ready for JSON or a table."""
        return [
            {
                "claim": claim.name,
                "predicted": claim.predicted,
                "measured": claim.measured,
                "unit": claim.unit,
                "relation": claim.relation,
                "relative_error": claim.relative_error,
                "tolerance": claim.tolerance,
                "holds": claim.holds,
            }
            for claim in self.claims
        ]

    def __str__(self) -> str:
        """Lay the claims out as a table."""
        sign = {"equal": "=", "at_least": ">=", "at_most": "<="}
        width = max((len(claim.name) for claim in self.claims), default=5)
        lines = [f"{self.analogy}: {'claim':<{width}}   {'predicted':>13}  {'measured':>12}  {'error':>8}  allowed"]
        for c in self.claims:
            lines.append(
                f"{'ok' if c.holds else 'FAILS':>{len(self.analogy)}}: {c.name:<{width}}  {sign[c.relation]:>2}"
                f"{c.predicted:>12.6g}  {c.measured:>12.6g}  {c.relative_error:>8.1e}  {c.tolerance:.1e} {c.unit}"
            )
        return "\n".join(line.rstrip() for line in lines)


def as_array(values: Any) -> Array:
    """Give numbers or a tensor as an array of float64."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
