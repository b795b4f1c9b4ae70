"""The sections of a report that runs without clients have: predictions, pictures; and what such runs call things."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedmomentum.report.charts import Chart
from fedmomentum.report.gather import Source
from fedmomentum.report.markup import Content, Html, table, tag, text
from fedmomentum.report.numbers import number
from fedmomentum.report.pieces import MOST_LINES, named, note, section

MOST_PICTURES = 1_000_000
"""Bytes of the pictures on a page: with text around them as base64, it stays under 2 MB."""

RELATIONS = {"at_least": "at least ", "at_most": "at most "}
_TITLES = {"loss": "Loss", "accuracy": "Accuracy"}


def is_federated(sources: Sequence[Source]) -> bool:
    """Say whether any of the runs has clients and a server."""
    return any(source.kind == "federated" for source in sources)


def plain_titles(drawn: Sequence[Chart]) -> list[Chart]:
    """Call metrics by what they are where there is no central test set."""
    return [replace(chart, title=_TITLES.get(chart.key, chart.title)) for chart in drawn]


def sentence(sources: Sequence[Source]) -> str | None:
    """Say in a sentence what became of the predictions of analogies; None of anything else."""
    if any(source.kind != "analogy" for source in sources):
        return None
    found = [finding for source in sources for _, finding in source.findings]
    if not found:
        return None
    worst = max((finding["relative_error"] for finding in found), key=lambda error: (math.isnan(error), error))
    held = sum(finding["holds"] for finding in found)
    return f"{held} of {len(found)} predictions hold; the largest relative error is {number(worst)}."


def findings(sources: Sequence[Source]) -> Html | None:
    """Show what a closed form predicted beside what the experiment measured."""
    rows: list[list[Content]] = []
    arms = len({(source.label, arm) for source in sources for arm, _ in source.findings}) > 1
    for source in sources:
        for arm, finding in source.findings:
            holds = finding["holds"]
            who = f"{source.label}: {arm}" if len(sources) > 1 and arm else arm or source.label
            unit = f" {finding['unit']}" if finding["unit"] else ""
            cells: list[Content] = [named(who)] if arms else []
            cells += [
                tag("td" if arms else "th", text(finding["claim"], most=300)),
                tag("td", "holds" if holds else "does not hold", class_="good-text" if holds else "bad-text"),
                f"{RELATIONS.get(finding['relation'], '')}{_value(finding['predicted'])}{text(unit, most=40)}",
                f"{_value(finding['measured'])}{text(unit, most=40)}",
                _percent(finding["relative_error"]),
                _percent(finding["tolerance"]),
            ]
            rows.append(cells)
    if not rows:
        return None
    heads: list[Content] = [*(["arm"] if arms else []), "prediction", "verdict"]
    heads += ["predicted", "measured", "relative error", "allowed"]
    shown = table(heads, rows[:MOST_LINES], label="Predictions", left=2 + arms, class_="words claims")
    more = note(f"{len(rows) - MOST_LINES} more are in findings.json.") if len(rows) > MOST_LINES else None
    return section("predictions", "Closed forms and measurements", shown, more)


def pictures(sources: Sequence[Source]) -> Html | None:
    """Show the pictures that the runs drew of themselves."""
    room, figures, left = MOST_PICTURES, [], 0
    for source in sources:
        for path in source.pictures if source.kind != "federated" else ():
            try:
                image = path.read_bytes()
            except OSError:
                continue
            if len(image) > room or not image.startswith(b"\x89PNG\r\n\x1a\n"):
                left += 1
                continue
            room -= len(image)
            data = f"data:image/png;base64,{base64.b64encode(image).decode()}"
            words = f"{source.label}: {path.stem.replace('_', ' ')}"
            shown = tag("img", src=data, alt=f"Picture {text(words, most=200)}", class_="picture")
            figures.append(tag("figure", tag("figcaption", tag("h3", text(words, most=200))), shown))
    if not figures:
        return None
    more = note(f"{left} more are in the folders plots of the runs.") if left else None
    return section("pictures", "Pictures", *figures, more)


def steady(sources: Sequence[Source], drawn: Sequence[Chart], colours: Mapping[int, int]) -> Html | None:
    """List what had one value only: a chart of it would say less."""
    if not drawn or all(source.kind == "analogy" and source.findings for source in sources):
        return None  # the table of predictions has them
    names = {s.index: s.curve.name for chart in drawn for s in chart.series if s.index in colours}
    rows: list[list[Content]] = []
    for chart in drawn[:MOST_LINES]:
        values = {s.index: s.curve.mean[-1] for s in chart.series}
        rows.append([chart.title, *(number(values[i]) if i in values else "–" for i in names)])
    heads: list[Content] = ["measurement", *(named(name, colours[i]) for i, name in names.items())]
    return section("steady", "The same all the time", table(heads, rows, label="Constant measurements"))


def is_steady(chart: Chart) -> bool:
    """Say whether no curve of a chart ever changes, and none has a band."""
    return chart.kind != "metric" and all(
        math.isfinite(s.curve.mean[-1]) and len({*s.curve.mean, *s.curve.low, *s.curve.high}) == 1 for s in chart.series
    )


def _value(value: float) -> str:
    return number(value) if math.isfinite(value) else "not finite"


def _percent(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:.2%}" if value == 0 or value >= 1e-4 else f"{100 * value:.0e}%"
