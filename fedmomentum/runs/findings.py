"""``findings.json``: what was predicted beside what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from fedmomentum.runs.atomic import finite, write_json

FINDINGS = "findings.json"


class Finding(TypedDict):
    """One prediction and its measurement.

    Attributes:
        claim: what is claimed, in words, with its condition.
        predicted: from a closed form.
        measured: from the experiment.
        unit: of both; empty for pure numbers.
        relation: ``equal``; ``at_least`` or ``at_most`` where the prediction is a bound.
        relative_error: of the measurement.
        tolerance: the relative error that is allowed.
        holds: whether it is kept.
    """

    claim: str
    predicted: float
    measured: float
    unit: str
    relation: str
    relative_error: float
    tolerance: float
    holds: bool


def finding(row: Mapping[str, Any]) -> Finding:
    """Make a finding of a plain row with all its keys."""
    return Finding(
        claim=str(row["claim"]),
        predicted=float(row["predicted"]),
        measured=float(row["measured"]),
        unit=str(row["unit"]),
        relation=str(row["relation"]),
        relative_error=float(row["relative_error"]),
        tolerance=float(row["tolerance"]),
        holds=bool(row["holds"]),
    )


def write_findings(folder: Path, findings: Sequence[Finding]) -> None:
    """Write the findings of an arm into its folder; nothing where there are none."""
    if findings:
        write_json(folder / FINDINGS, finite(list(findings)))


def read_findings(folder: Path) -> list[Finding]:
    """Read the findings of an arm; none where none were written."""
    path = folder / FINDINGS
    if not path.is_file():
        return []
    found: list[Finding] = json.loads(path.read_text(encoding="utf-8"))
    return found
