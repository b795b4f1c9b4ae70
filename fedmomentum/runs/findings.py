"""``findings.json``: what was predicted beside what was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from fedmomentum.errors import UserError
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
        predicted=_number(row["predicted"]),
        measured=_number(row["measured"]),
        unit=str(row["unit"]),
        relation=str(row["relation"]),
        relative_error=_number(row["relative_error"]),
        tolerance=_number(row["tolerance"]),
        holds=bool(row["holds"]),
    )


def _number(value: Any) -> float:
    """Give a number; null stands for one that is not finite."""
    return math.nan if value is None else float(value)


def write_findings(folder: Path, findings: Sequence[Finding]) -> None:
    """Write the findings of an arm into its folder; nothing where there are none."""
    if findings:
        write_json(folder / FINDINGS, finite(list(findings)))


def read_findings(folder: Path) -> list[Finding]:
    """Read the findings of an arm; none where none were written.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / FINDINGS
    if not path.is_file():
        return []
    try:
        return [finding(row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not a list of findings ({type(error).__name__}: {error})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
