"""Predictions beside measurements, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedmomentum.cli.table import table
from fedmomentum.report.numbers import number

MOST_ARMS = 4
RELATIONS = {"equal": "", "at_least": ">= ", "at_most": "<= "}


def headline(findings: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> str:
    """Say how many predictions hold: ``spring: 7 of 7 predictions hold``."""
    every = [finding for found in findings.values() for finding in found]
    held = sum(bool(finding["holds"]) for finding in every)
    return f"{name}: {held} of {len(every)} predictions hold"


def lines(findings: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Give a table for each arm; of more than a few arms, those in which a prediction fails."""
    shown = {arm: found for arm, found in findings.items() if found}
    if len(shown) > MOST_ARMS:
        shown = {arm: found for arm, found in shown.items() if not all(finding["holds"] for finding in found)}
    parts: list[str] = []
    for arm, found in shown.items():
        heads = ["", arm or "prediction", "predicted", "measured", "error", "allowed", "unit"]
        parts += table(heads, [_row(finding) for finding in found], left=2).splitlines()
    return parts


def _row(finding: Mapping[str, Any]) -> list[str]:
    return [
        "ok" if finding["holds"] else "FAILS",
        str(finding["claim"]),
        RELATIONS.get(str(finding["relation"]), "") + number(finding["predicted"]),
        number(finding["measured"]),
        _error(finding["relative_error"]),
        _error(finding["tolerance"]),
        str(finding["unit"]),
    ]


def _error(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else f"{value:.1e}"
