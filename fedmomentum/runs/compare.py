"""Runs beside each other: what is the same question with other seeds is one candidate, and candidates are compared.

Two runs are of one candidate where their resolved settings differ in nothing but the seed. Differences between
candidates are taken seed by seed, since runs of one seed share their data, partition, cohorts and first weights.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fedmomentum.errors import UserError
from fedmomentum.runs.estimate import Estimate, interval, median
from fedmomentum.runs.read import Run
from fedmomentum.runs.settings import ArmRun, arms_of, flat

METRICS = ("accuracy", "loss", "train_loss", "relative_error")
"""What to compare where no metric is asked for: the first that all runs have."""

_COSTS = ("seconds", "bytes")
_LESS_IS_BETTER = ("loss", "error", "perplexity", "elapsed", "failures", "time")


def less_is_better(metric: str) -> bool:
    """Say whether a lower value of a metric is the better one: of losses, errors, times and costs."""
    return metric.endswith(_LESS_IS_BETTER) or metric.startswith(_COSTS)


@dataclass(frozen=True)
class Point:
    """One measured value of a metric, and what had been spent by then."""

    round: int
    value: float
    bytes: float
    """Sent down and up since the start; NaN where nothing counted them."""
    seconds: float
    """Wall-clock time since the start; NaN where nothing took it."""


def trace(rows: Sequence[Mapping[str, Any]], metric: str) -> list[Point]:
    """Give the rounds in which a metric was measured; a value that is no finite number is NaN."""
    points: list[Point] = []
    spent, counted, clock = 0.0, False, 0.0
    for row in rows:
        if "bytes_down" in row or "bytes_up" in row:
            spent, counted = spent + row.get("bytes_down", 0) + row.get("bytes_up", 0), True
        clock = row["elapsed"] if "elapsed" in row else clock + row.get("seconds", math.nan)
        if metric in row:
            value = row[metric]
            value = float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan
            points.append(Point(int(row["round"]), value, float(spent), float(clock)))
    return points if counted else [Point(p.round, p.value, math.nan, p.seconds) for p in points]


def first_at(points: Sequence[Point], target: float, *, less: bool = False) -> Point | None:
    """Give the first measured point that is at least as good as the target, or None."""
    return next((p for p in points if (p.value <= target if less else p.value >= target)), None)


@dataclass(frozen=True)
class Outcome:
    """One run (an arm with a seed) and its curve; at least one point."""

    source: ArmRun
    points: list[Point]

    @property
    def final(self) -> float:
        """The last measured value; NaN where the run diverged."""
        return self.points[-1].value

    def best(self, less: bool) -> float:
        """Give the best finite value, or NaN where there is none."""
        values = [p.value for p in self.points if math.isfinite(p.value)]
        return (min if less else max)(values, default=math.nan)

    @property
    def unfinished(self) -> bool:
        """Whether rounds that the scenario asks for were not done."""
        rounds, done = self.source.settings.get("rounds"), self.source.run.metrics[-1]["round"]
        return isinstance(rounds, int) and done < rounds


@dataclass(frozen=True)
class Candidate:
    """All seeds of one setting, as the comparison's metric, target and confidence see them."""

    label: str
    outcomes: list[Outcome]
    less: bool = False
    target: float | None = None
    confidence: float = 0.95

    @property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return [outcome.source.seed for outcome in self.outcomes]

    @cached_property
    def finals(self) -> dict[int, float]:
        """Seed -> last value."""
        return {outcome.source.seed: outcome.final for outcome in self.outcomes}

    @cached_property
    def final(self) -> Estimate:
        """The last value: mean over seeds and its interval."""
        return interval(list(self.finals.values()), self.confidence)

    @cached_property
    def best(self) -> Estimate:
        """The best value of each seed: mean over seeds and its interval."""
        return interval([outcome.best(self.less) for outcome in self.outcomes], self.confidence)

    @cached_property
    def hits(self) -> list[Point | None]:
        """Where each seed first came to the target."""
        if self.target is None:
            return []
        return [first_at(outcome.points, self.target, less=self.less) for outcome in self.outcomes]

    @property
    def reached(self) -> int:
        """Seeds that came to the target."""
        return sum(hit is not None for hit in self.hits)

    def cost(self, what: str) -> float | None:
        """Give the median over seeds of ``round``, ``bytes`` or ``seconds`` to the target; None: too few came to it."""
        return median([None if hit is None else getattr(hit, what) for hit in self.hits])


@dataclass(frozen=True)
class Comparison:
    """Candidates, the first of them (or the one asked for) being the baseline of the differences."""

    metric: str
    less: bool
    target: float | None
    confidence: float
    baseline: Candidate
    candidates: list[Candidate]
    notes: list[str] = field(default_factory=list)
    """What a reader should know before believing the table."""

    def difference(self, candidate: Candidate) -> Estimate | None:
        """Give the mean of ``candidate - baseline`` over the seeds of both, with the paired t interval.

        None for the baseline itself, and where no seed is in both.
        """
        shared = [seed for seed in candidate.finals if seed in self.baseline.finals]
        if candidate is self.baseline or not shared:
            return None
        return interval([candidate.finals[s] - self.baseline.finals[s] for s in shared], self.confidence)

    def records(self) -> list[dict[str, object]]:
        """Give one flat record a candidate, with the same keys in each: rows of a table."""
        out: list[dict[str, object]] = []
        for one in self.candidates:
            record: dict[str, object] = {"candidate": one.label, "seeds": len(one.outcomes), "metric": self.metric}
            for name, estimate in (("final", one.final), ("best", one.best), ("difference", self.difference(one))):
                ends = (estimate.mean, estimate.low, estimate.high) if estimate else (None, None, None)
                record |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
            record["target"] = self.target
            record["reached"] = None if self.target is None else one.reached
            for name, what in (("rounds", "round"), ("bytes", "bytes"), ("seconds", "seconds")):
                record[f"{name}_to_target"] = one.cost(what)
            out.append(record)
        return out

    def as_dict(self) -> dict[str, object]:
        """Give everything as plain data, values of each seed included."""
        candidates = []
        for record, one in zip(self.records(), self.candidates, strict=True):
            hits = one.hits or [None] * len(one.outcomes)
            runs = [
                {
                    "seed": outcome.source.seed,
                    "folder": str(outcome.source.run.path),
                    "final": outcome.final,
                    "best": outcome.best(self.less),
                    "rounds_to_target": hit and hit.round,
                    "bytes_to_target": hit and hit.bytes,
                    "seconds_to_target": hit and hit.seconds,
                }
                for outcome, hit in zip(one.outcomes, hits, strict=True)
            ]
            candidates.append(record | {"runs": runs})
        return {
            "metric": self.metric,
            "better": "lower" if self.less else "higher",
            "target": self.target,
            "confidence": self.confidence,
            "interval": "Student's t over seeds; of differences, paired by seed",
            "to_target": "median over seeds; a seed that never got there counts as later than all others",
            "baseline": self.baseline.label,
            "candidates": candidates,
            "notes": self.notes,
        }


def compare(
    runs: Sequence[Run],
    *,
    metric: str | None = None,
    target: float | None = None,
    baseline: str | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """Compare runs and arms of runs.

    Args:
        runs: whole runs or single arms; what is given twice counts once.
        metric: key of the rows; by default the first of ``METRICS`` that all have.
        target: value of the metric to come to.
        baseline: label of the candidate that the others are compared with; by default the first.
        confidence: of every interval, in (0, 1).

    Raises:
        UserError: nothing was recorded, there is no common metric, or no such baseline.
    """
    if not 0 < confidence < 1:
        raise UserError(f"confidence: expected a number between 0 and 1, such as 0.95, not {confidence}")
    given = {arm.run.path.resolve(): arm for run in runs for arm in arms_of(run)}
    arms = [arm for arm in given.values() if arm.run.metrics]
    notes = [f"{arm.run.path}: no round was recorded; left out" for arm in given.values() if not arm.run.metrics]
    if not arms:
        raise UserError("nothing to compare: " + ("\n".join(notes) or "no runs were given"))
    groups = _groups(arms)
    labels = _labels(groups)
    metric = _metric(dict(zip(labels, groups, strict=True)), metric)
    less = less_is_better(metric)
    candidates = [
        Candidate(
            label,
            [Outcome(arm, trace(arm.run.metrics, metric)) for arm in sorted(group, key=lambda arm: arm.seed)],
            less,
            target,
            confidence,
        )
        for label, group in zip(labels, groups, strict=True)
    ]
    chosen = candidates[0]
    if baseline is not None:
        if baseline not in labels:
            near = difflib.get_close_matches(baseline, labels, 1)
            guess = f"; did you mean '{near[0]}'?" if near else ";"
            raise UserError(f"baseline: there is no '{baseline}'{guess} there are {', '.join(labels)}")
        chosen = candidates[labels.index(baseline)]
    notes += _doubts(candidates, chosen)
    return Comparison(metric, less, target, confidence, chosen, candidates, notes)


def _groups(arms: Sequence[ArmRun]) -> list[list[ArmRun]]:
    """Join the seeds of one setting.

    The same setting with the same seed twice is no second sample (it may be other code, or another machine), so such
    runs stay apart by folder and arm.
    """
    alike: dict[str, list[ArmRun]] = {}
    for arm in arms:
        alike.setdefault(json.dumps(arm.settings, sort_keys=True, default=str), []).append(arm)
    groups: list[list[ArmRun]] = []
    for group in alike.values():
        if len({arm.seed for arm in group}) == len(group):
            groups.append(group)
            continue
        apart: dict[tuple[object, str], list[ArmRun]] = {}
        for arm in group:
            apart.setdefault((arm.folder, arm.group), []).append(arm)
        groups += apart.values()
    return groups


def _labels(groups: Sequence[Sequence[ArmRun]]) -> list[str]:
    """Name each candidate by its arm or scenario; what would share a name gets more words, in this order of taste."""
    firsts = [group[0] for group in groups]
    labels = [first.group or first.scenario for first in firsts]
    for words in (_scenarios, _differences, _folders):
        for label in {label for label in labels if labels.count(label) > 1}:
            same = [i for i, other in enumerate(labels) if other == label]
            more = words([firsts[i] for i in same])
            if len(set(more)) == len(more):
                for i, word in zip(same, more, strict=True):
                    labels[i] = f"{label} {word}".strip()
    return [label if labels.count(label) == 1 else f"{label} ({i + 1})" for i, label in enumerate(labels)]


def _scenarios(arms: Sequence[ArmRun]) -> list[str]:
    return [f"[{arm.scenario}]" if arm.group else "" for arm in arms]


def _differences(arms: Sequence[ArmRun]) -> list[str]:
    """Give each arm the settings in which they differ, if they are few enough to read."""
    paths = [dict(flat(arm.settings)) for arm in arms]
    differing = [
        key for key in dict.fromkeys(key for one in paths for key in one)
        if len({json.dumps(one.get(key), default=str) for one in paths}) > 1
    ]  # fmt: skip
    if len(differing) > 3:
        return [""] * len(arms)
    ends = [key.rpartition(".")[2] for key in differing]
    names = {key: end if ends.count(end) == 1 else key for key, end in zip(differing, ends, strict=True)}
    return [",".join(f"{names[key]}={one[key]}" for key in differing if key in one) for one in paths]


def _folders(arms: Sequence[ArmRun]) -> list[str]:
    return [f"[{arm.folder.name}]" for arm in arms]


def _metric(groups: Mapping[str, Sequence[ArmRun]], asked: str | None) -> str:
    """Choose the metric, or say who lacks it."""
    have = {
        label: set.intersection(*({key for row in arm.run.metrics for key in row} for arm in group))
        for label, group in groups.items()
    }
    common = set.intersection(*have.values()) - {"round"}
    if asked is None:
        found = next((metric for metric in METRICS if metric in common), None)
        if found is None:
            rest = f"; choose one with --metric: {', '.join(sorted(common))}" if common else ""
            raise UserError(f"none of {', '.join(METRICS)} was measured in all of {', '.join(groups)}{rest}")
        return found
    if asked not in common:
        lacking = [label for label, keys in have.items() if asked not in keys]
        whom = "any of the runs" if len(lacking) == len(have) else ", ".join(lacking)
        near = difflib.get_close_matches(asked, common, 1)
        guess = f"; did you mean '{near[0]}'?" if near else ";"
        rest = ", ".join(sorted(common)) or "nothing"
        raise UserError(f"metric: '{asked}' was not measured in {whom}{guess} all have {rest}")
    return asked


def _doubts(candidates: Sequence[Candidate], baseline: Candidate) -> Iterator[str]:
    data = {str((o.source.settings.get("data") or {}).get("name")) for one in candidates for o in one.outcomes}
    if len(data) > 1:
        yield f"the runs were tested on different data: {', '.join(sorted(data))}"
    ends = {outcome.points[-1].round for one in candidates for outcome in one.outcomes}
    if len(ends) > 1:
        yield f"the last values are of different rounds, {min(ends)} to {max(ends)}"
    for one in candidates:
        unfinished = sum(outcome.unfinished for outcome in one.outcomes)
        if unfinished:
            yield f"{one.label}: {unfinished} of {len(one.outcomes)} did not do all of their rounds"
        diverged = sum(not math.isfinite(outcome.final) for outcome in one.outcomes)
        if diverged:
            yield f"{one.label}: {diverged} of {len(one.outcomes)} diverged, so there is no mean"
        if one is not baseline and not set(one.seeds) & set(baseline.seeds):
            yield f"{one.label} and {baseline.label} have no seed in common, so there is no paired difference"
    if all(len(one.outcomes) == 1 for one in candidates):
        yield "one seed each: there is no interval; set sweep.seeds to see what is chance"
