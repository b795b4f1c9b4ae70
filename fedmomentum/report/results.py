"""The sections of a report that show what was measured: numbers, claims, curves, time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedmomentum.report import drawings
from fedmomentum.report.charts import MOST_BANDS, Chart, groups, mean
from fedmomentum.report.gather import Arm, Source, mapping
from fedmomentum.report.headline import Headline, Line, Point, total
from fedmomentum.report.markup import Content, Html, join, number_cell, table, tag, text
from fedmomentum.report.numbers import duration, number, plural, rate, real, size
from fedmomentum.report.pieces import MOST_LINES, MOST_NAME, details, named, note, section, swatch_class

PHASES = ("configure", "broadcast", "train", "reduce", "aggregate", "evaluate_clients", "evaluate", "checkpoint")
"""The parts of a round, in their order."""


def finding(found: Headline, unit: str = "round") -> str:
    """Say in a sentence where the arms ended."""
    lines = [line for line in found.lines if line.last]
    if not lines:
        return "Nothing was measured yet."
    metric = found.metric.replace("_", " ")
    parts = []
    common = None
    for line in lines[:4]:
        assert line.last is not None
        words = [text(line.name, most=MOST_NAME), *([f"reached {metric}"] if common is None else [])]
        words += [
            number(line.last.value),
            *([f"after {plural(line.last.round, unit)}"] if line.last.round != common else []),
        ]
        words += [f"and diverged in round {line.diverged}"] if line.diverged is not None else []
        parts.append(" ".join(words))
        common = line.last.round if common is None else common
    rest = f"; {len(lines) - 4} more arms" if len(lines) > 4 else ""
    return "; ".join(parts) + rest + "."


def headline_table(found: Headline, colours: Mapping[int, int], federated: bool = True) -> Html:
    """Show where each group of arms ended, the best first, and what that cost.

    Args:
        found: the numbers.
        colours: of the groups that are drawn.
        federated: whether there were clients, messages and failures to count.
    """
    unit = "round" if federated else "step"
    metric = found.metric.replace("_", " ") or "metric"
    lines = found.lines[:MOST_LINES]
    seeds = any(line.seeds > 1 for line in found.lines)
    names = [tag("th", named(line.name, colours.get(line.index)), scope="row") for line in lines]
    heads: list[Content] = ["arm", f"last {metric}", f"best {metric}", f"in {unit}"]
    words = []
    if math.isfinite(found.target):
        reach = number(found.target)
        heads += [f"{unit}s to {reach}", "time to it", *(["bytes to it"] if federated else [])]
        words.append(f"{reach} is {'90 % of the best value' if found.up else 'the lowest value over 0.9'}.")
    if seeds:
        words.insert(0, "Values of several seeds are their mean, with the lowest and highest seed under it.")
    if len(found.lines) > MOST_LINES:
        words.append(f"The {MOST_LINES} best of {len(found.lines)} arms.")
    results = [
        [name, *_results(line, len(heads) > 4)[: len(heads) - 1]] for name, line in zip(names, lines, strict=True)
    ]
    cost_heads: list[Content] = ["arm", *(["seeds"] if seeds else []), f"{unit}s", "time"]
    cost_heads += ["client updates", "per second", "failures", "bytes"] if federated else []
    cells = 6 if federated else 2
    costs = [
        [name, *([line.seeds] if seeds else []), *_costs(line)[:cells]] for name, line in zip(names, lines, strict=True)
    ]
    return join(
        [
            table(heads, results, label="Headline numbers"),
            note(" ".join(words)) if words else None,
            tag("h3", "Cost of a run" if not seeds else "Cost of a run, mean over the seeds"),
            table(cost_heads, costs, label="Cost"),
        ]
    )


def _results(line: Line, target: bool) -> list[Content]:
    cells: list[Content] = [_value(line.last), _value(line.best), line.best.round if line.best else "–"]
    if line.diverged is not None:
        cells[0] = number_cell(tag("span", f"diverged in round {line.diverged}", class_="bad-text"))
    if not target:
        return cells
    if line.reached is None:
        return [*cells, "not reached", "–", "–"]
    at = line.reached.places
    return [*cells, line.reached.round, _time(at.get("time")), _bytes(at.get("bytes"))]


def _costs(line: Line) -> list[Content]:
    pace = rate(line.updates / line.seconds) if line.seconds > 0 and line.updates else "–"
    return [
        _count(line.rounds), _time(line.seconds or None), _count(line.updates), pace, _count(line.failures),
        _bytes(line.bytes or None),
    ]  # fmt: skip


def _value(point: Point | None) -> Content:
    if point is None:
        return "–"
    if point.low == point.high:
        return number(point.value)
    spread = tag("span", f"{number(point.low)} – {number(point.high)}", class_="spread")
    return number_cell(join([number(point.value), spread]))


def _time(seconds: float | None) -> str:
    return duration(seconds) if seconds is not None and math.isfinite(seconds) else "–"


def _bytes(count: float | None) -> str:
    return size(count) if count is not None and math.isfinite(count) else "–"


def _count(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def claims(sources: Sequence[Source]) -> Html | None:
    """Compare what ``expect:`` predicted with what was measured."""
    rows: list[list[Content]] = []
    held = 0
    made = [(source, claim) for source in sources for claim in _claims(source)]
    allowed = any("tolerance" in claim for _, claim in made)
    for source, claim in made:
        ok = claim.get("ok") is True
        held += ok
        predicted, measured = real(claim.get("predicted")), real(claim.get("measured"))
        off = measured - predicted
        verdict = tag("td", "holds" if ok else "does not hold", class_="good-text" if ok else "bad-text")
        what = str(claim.get("text", ""))
        cells: list[Content] = [named(source.label)] if len(sources) > 1 else []
        cells += [tag("th" if len(sources) == 1 else "td", text(what.rpartition(": measured")[0] or what, most=300))]
        cells += [verdict, _number(predicted)]
        cells += [_number(real(claim.get("tolerance")))] if allowed else []
        cells += [_number(measured), _signed(off)]
        cells += [_signed(off / abs(predicted), percent=True) if predicted else "–"]
        rows.append(cells)
    if not rows:
        return None
    left = 2 + (len(sources) > 1)
    heads: list[Content] = [*(["run"] if len(sources) > 1 else []), "claim", "verdict"]
    heads += ["predicted", *(["tolerance"] if allowed else []), "measured", "difference", "relative"]
    return section(
        "claims",
        "Predicted and measured",
        tag("p", f"{held} of {len(rows)} claims hold."),
        table(heads, rows[:MOST_LINES], label="Claims", left=left, class_="words claims"),
    )


def _claims(source: Source) -> list[dict[str, Any]]:
    found = source.status.get("expectations")
    return [claim for claim in found if isinstance(claim, dict)] if isinstance(found, list) else []


def _number(value: float) -> str:
    return number(value) if math.isfinite(value) else "–"


def _signed(value: float, *, percent: bool = False) -> str:
    if not math.isfinite(value):
        return "–"
    size = f"{abs(value):.1%}" if percent else number(abs(value))
    return f"{'−' if value < 0 else '+'}{size}"


def chart_figure(chart: Chart, data: Mapping[str, Any]) -> Html:
    """Make the place of a chart: what it shows in words, its controls, its keys, and its values as a table."""
    identifier = str(data["id"])
    many = any("low" in series for series in data["series"])
    words = [f"line: {'median' if chart.kind == 'spread' else 'mean of the seeds'}; band: {chart.band}"] if many else []
    words += [f"bands show while at most {MOST_BANDS} curves do"] if many and len(chart.series) > MOST_BANDS else []
    words += [f"{chart.left_out} more arms are in the table of headline numbers only"] if chart.left_out else []
    axes = chart.axes
    controls = []
    if len(axes) > 1:
        options = (
            tag(
                "label",
                tag("input", type="radio", name=f"{identifier}-axis", value=a, checked=i == 0),
                _axis(a, data["axes"][a]),
            )
            for i, a in enumerate(axes)
        )
        controls.append(tag("fieldset", tag("legend", "against", class_="quiet"), *options, class_="axes"))
    if all(y is None or y > 0 for series in data["series"] for y in series["y"]):
        controls.append(tag("label", tag("input", type="checkbox", class_="log"), "log scale"))
    keys = (
        tag("button", tag("span", class_=swatch_class(s.index)), tag("bdi", text(s.curve.name, most=60)),
            type="button", aria_pressed="true", data_series=i)
        for i, s in enumerate(chart.series)
    )  # fmt: skip
    label = f"{chart.title}: {len(chart.series)} {'curve' if len(chart.series) == 1 else 'curves'}"
    return tag(
        "figure",
        tag("figcaption", tag("h3", chart.title), note("; ".join(words)) if words else None),
        tag("div", *controls, class_="controls") if controls else None,
        tag(
            "div", class_="plot", tabindex=0, role="application", aria_roledescription="chart",
            aria_label=f"{label}. Left and right arrow keys read its values; they are also in the table below.",
        ),
        tag("div", class_="said", aria_live="polite"),
        tag("div", *keys, class_="keys", role="group", aria_label="Curves; press to hide or show"),
        details("Values as a table", _values(chart)),
        id=identifier,
        class_="chart",
    )  # fmt: skip


def _axis(axis: str, label: str) -> str:
    return {"round": f"{label}s", "time": "time", "simulated": "simulated time", "bytes": "bytes"}[axis]


def _values(chart: Chart, most: int = 25) -> Html:
    rounds = sorted({r for series in chart.series for r in series.curve.rounds})
    kept = [rounds[i * (len(rounds) - 1) // (most - 1)] for i in range(most)] if len(rounds) > most else rounds
    found = [dict(zip(s.curve.rounds, s.curve.mean, strict=True)) for s in chart.series]
    rows = [[f"{r:.0f}", *(_cell(values, r) for values in found)] for r in kept]
    heads: list[Content] = ["round", *(named(series.curve.name) for series in chart.series)]
    words = f"{most} of {len(rounds)} rounds." if len(rounds) > most else ""
    return join([table(heads, rows, label=chart.title), note(words) if words else None])


def _cell(values: Mapping[float, float], r: float) -> str:
    if r not in values:
        return ""
    return number(values[r]) if math.isfinite(values[r]) else "not finite"


def phases(arms: Sequence[Arm]) -> dict[str, dict[str, float]]:
    """Give the seconds of each phase of a round, summed over the rounds of a run, by group: means over the seeds.

    What the phases leave of a round's time is ``other``, where it is more than half a percent. Phases come in the order
    of the round.
    """
    found = {}
    for name, members in groups(arms).items():
        keys = dict.fromkeys(key for arm in members for row in arm.rows for key in row if key.startswith("seconds_"))
        parts = {key.removeprefix("seconds_"): mean([total(arm, key) for arm in members]) for key in keys}
        rest = mean([total(arm, "seconds") for arm in members]) - math.fsum(parts.values())
        if parts:
            found[name] = parts | ({"other": rest} if rest > 0.005 * math.fsum(parts.values()) else {})
    order = [phase for phase in dict.fromkeys(p for parts in found.values() for p in parts) if phase not in PHASES]
    order = [*PHASES, *sorted(order, key=lambda phase: phase == "other")]
    return {name: {phase: parts[phase] for phase in order if phase in parts} for name, parts in found.items()}


def time_profile(arms: Sequence[Arm], colours: Mapping[int, int]) -> Html | None:
    """Show where the time of each group of arms went, phase by phase."""
    found = phases(arms)
    if not found:
        return None
    seen = {phase for parts in found.values() for phase in parts}
    order = [phase for phase in PHASES if phase in seen]
    order += [phase for phase in dict.fromkeys(p for parts in found.values() for p in parts) if phase not in PHASES]
    sums = {name: math.fsum(parts.values()) for name, parts in found.items()}
    longest = max(sums.values())
    index = {name: i for i, name in enumerate(groups(arms))}
    bars = []
    for name, parts in found.items():
        if index[name] in colours:
            label = f"{text(name, most=MOST_NAME)}: {duration(sums[name])}"
            bar = drawings.stack(parts, longest, order, label)
            bars.append(tag("div", tag("span", named(name), class_="who"), bar, class_="row"))
    rows = [
        [named(name), *(_share(parts.get(phase), sums[name]) for phase in order), duration(sums[name])]
        for name, parts in list(found.items())[:MOST_LINES]
    ]
    legend = drawings.key((drawings.kind(i), phase.replace("_", " ")) for i, phase in enumerate(order))
    heads: list[Content] = ["arm", *(phase.replace("_", " ") for phase in order), "all"]
    return section(
        "time",
        "Where the time went",
        tag("figure", tag("div", *bars, drawings.ends("0 s", duration(longest)), class_="strips"), legend),
        table(heads, rows, label="Seconds of each phase"),
        *_workers(arms),
    )


def _workers(arms: Sequence[Arm]) -> list[Html]:
    """Show how busy each worker was, of arms that were run with ``--profile``."""
    rows: list[list[Content]] = []
    for arm in arms:
        for name, worker in mapping(arm.profile.get("workers")).items():
            busy, seconds = (real(mapping(worker).get(key)) for key in ("busy", "seconds"))
            counts = (f"{real(mapping(worker).get(key)):.0f}" for key in ("tasks", "clients"))
            rows.append([named(arm.label), text(name, most=MOST_NAME), f"{seconds:.3g} s", f"{busy:.0%}", *counts])
    heads: list[Content] = ["arm", "worker", "worked", "of the training time", "tasks", "client updates"]
    return [table(heads, rows[:MOST_LINES], label="Workers", left=2)] if rows else []


def _share(seconds: float | None, whole: float) -> Content:
    if seconds is None:
        return "–"
    return number_cell(
        join([f"{seconds:.3g} s", tag("span", f"{seconds / whole:.1%}" if whole else "", class_="spread")])
    )
