"""``expect:``: claims about the results, checked against what was measured when a run has ended."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from fedmomentum.scenario.block import Block, Misfit, NonNegative, OneOf, Positive, Whole

if TYPE_CHECKING:
    from fedmomentum.scenario.load import LoadedScenario

Rows = Sequence[Mapping[str, Any]]

_SMALL_IS_GOOD = ("loss", "error", "distance", "wasserstein", "seconds", "elapsed", "failures", "bytes")
_SMALL_PARTS = {"ece", "nll"}  # too short to be looked for anywhere in a name


class Claim(Block):
    """A prediction about one metric: exactly one of ``ge``, ``le``, ``about`` and ``than``.

    Several seeds of an arm count as one measurement, their mean.
    """

    metric: str = Field(min_length=1, description="a column of metrics.jsonl, such as accuracy or loss")
    arm: str | None = Field(default=None, description="whose; may be left out where there is only one")
    at: Literal["last", "best"] | Whole = Field(
        default="last",
        description="the last tested round, the best one (highest; of a loss, lowest), or a round by its number",
    )
    ge: float | None = Field(default=None, description="the metric is at least this")
    le: float | None = Field(default=None, description="the metric is at most this")
    about: float | None = Field(default=None, description="the metric is this, up to the tolerance")
    tolerance: Positive | None = Field(default=None, description="for about: largest absolute difference")
    relative: Positive | None = Field(
        default=None, description="for about: largest difference as a fraction of the prediction"
    )
    than: str | None = Field(
        default=None, description="another arm: the metric is better than its (higher; of a loss, lower)"
    )
    margin: NonNegative = Field(default=0.0, description="for than: by at least this much")

    alternatives: ClassVar[tuple[OneOf, ...]] = (OneOf(("ge", "le", "about", "than")),)

    def misfits(self) -> Iterator[Misfit]:
        """Refuse a prediction without a tolerance, and settings that belong to another relation."""
        yield from super().misfits()
        given = [name for name in ("tolerance", "relative") if getattr(self, name) is not None]
        if self.about is not None and len(given) != 1:
            yield Misfit(("about",), "needs a tolerance (absolute) or relative (a fraction of it), one of the two")
        if self.about is None and given:
            yield Misfit((given[0],), "belongs to 'about'; leave it out")
        if self.than is None and self.margin:
            yield Misfit(("margin",), "belongs to 'than'; leave it out")
        if self.than is not None and self.than == self.arm:
            yield Misfit(("than",), f"'{self.than}' cannot be better than itself; name another arm")


@dataclass(frozen=True)
class Expectation:
    """A claim with what was measured.

    Attributes:
        text: one line for people: the claim, and the measurement.
        ok: whether the claim holds; a metric that was not measured does not.
        measured: the value of the metric, None where there is none.
        predicted: the number it was compared with, None where there is none.
    """

    text: str
    ok: bool
    measured: float | None = None
    predicted: float | None = None


def small_is_good(metric: str) -> bool:
    """Tell whether less of a metric is better, by its name: losses, errors, distances, times, failures, bytes."""
    return any(word in metric for word in _SMALL_IS_GOOD) or not _SMALL_PARTS.isdisjoint(metric.split("_"))


def check_expectations(loaded: LoadedScenario, rows: Mapping[str, Rows]) -> list[Expectation]:
    """Compare every claim of a scenario with the metrics of its arms.

    Args:
        loaded: the scenario.
        rows: name of an arm -> its rows of metrics, each with its ``round``.
    """
    groups: dict[str, list[Rows]] = {}
    for arm in loaded.arms:
        groups.setdefault(arm.group, []).append(rows.get(arm.name, ()))
        groups.setdefault(arm.name, [rows.get(arm.name, ())])
    return [_check(claim, groups, loaded.arms[0].group) for claim in loaded.scenario.expect]


def _check(claim: Claim, groups: Mapping[str, Sequence[Rows]], only: str) -> Expectation:
    arm = only if claim.arm is None else claim.arm
    subject = " ".join(part for part in (arm, _moment(claim.at), claim.metric) if part)
    measured = _mean([_measure(rows, claim) for rows in groups.get(arm, ())])
    if claim.than is None:
        predicted = next(value for value in (claim.ge, claim.le, claim.about) if value is not None)
        relation, ok = _against_number(claim, measured)
        target = ""
    else:
        predicted = _mean([_measure(rows, claim) for rows in groups.get(claim.than, ())])
        relation = f"better than {claim.than}" + (f" by {claim.margin:g}" if claim.margin else "")
        target = f", {claim.than} {_number(predicted)}"
        sign = -1.0 if small_is_good(claim.metric) else 1.0
        # A tie is not better, and rounding must not decide whether a margin is reached.
        gain = sign * (measured - predicted)
        ok = gain > 0 and (gain >= claim.margin or math.isclose(gain, claim.margin, rel_tol=1e-9))
    found = f"measured {_number(measured)}{target}"
    return Expectation(f"{subject} {relation}: {found}", ok, _known(measured), _known(predicted))


def _against_number(claim: Claim, measured: float) -> tuple[str, bool]:
    if claim.ge is not None:
        return f">= {claim.ge:g}", measured >= claim.ge
    if claim.le is not None:
        return f"<= {claim.le:g}", measured <= claim.le
    assert claim.about is not None
    allowed = claim.tolerance if claim.tolerance is not None else (claim.relative or 0.0) * abs(claim.about)
    return f"= {claim.about:g} +- {allowed:g}", abs(measured - claim.about) <= allowed


def _measure(rows: Rows, claim: Claim) -> float:
    """Give the metric at the claim's moment; NaN where it was not measured."""
    values = {row.get("round", 0): float(row[claim.metric]) for row in rows if row.get(claim.metric) is not None}
    if not values:
        return math.nan
    if claim.at == "last":
        return values[max(values)]
    if claim.at == "best":
        finite = [value for value in values.values() if not math.isnan(value)]
        return (min if small_is_good(claim.metric) else max)(finite, default=math.nan)
    return values.get(claim.at, math.nan)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values and not any(map(math.isnan, values)) else math.nan


def _moment(at: str | int) -> str:
    return f"round {at}" if isinstance(at, int) else at


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(value: float) -> str:
    return "nothing" if math.isnan(value) else f"{value:.4g}"
