"""The sections of a report about the clients: what they hold, how they differ, who took part."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedmomentum.report import drawings
from fedmomentum.report.charts import groups
from fedmomentum.report.gather import Arm, Source, mapping
from fedmomentum.report.markup import Content, Html, table, tag, text
from fedmomentum.report.numbers import number, real
from fedmomentum.report.participation import Participation, participations
from fedmomentum.report.pieces import MOST_LINES, MOST_NAME, details, named, note, section

MOST_PICTURES = 4
"""Drawings of one kind: partitions, heat maps."""
PICTURE_BYTES = 300_000
"""Size of a picture file that may be embedded."""


def partitions(sources: Sequence[Source]) -> Html | None:
    """Show who holds what: the first few splits as pictures, all of them in numbers."""
    pictures: list[Html] = []
    rows: list[list[Content]] = []
    for source in sources:
        for record in source.partitions:
            label = split_label(source, record, len(sources))
            facts = mapping(record.get("summary"))
            rows.append([named(label), *(_fact(facts.get(key)) for key in FACTS)])
            counts = class_counts(record)
            if counts is not None and len(pictures) < MOST_PICTURES:
                title = f"Examples of each class on each client, {text(label, most=MOST_NAME)}"
                bars = drawings.partition_bars(counts, title)
                pictures.append(tag("figure", tag("figcaption", named(label)), bars, _held(counts)))
        if source.partitions and all(class_counts(record) is None for record in source.partitions):
            image = _embedded(source)
            pictures += [image] if image else []
    if not rows:
        return None
    heads: list[Content] = ["arms", *FACTS.values()]
    return section(
        "partition",
        "Who holds what",
        tag("div", *pictures, class_="grid") if pictures else None,
        table(heads, rows[:MOST_LINES], label="Partitions in numbers", class_="words"),
        note(
            "Total variation: mean over clients of half the summed absolute difference between a client's class "
            "distribution and that of all data; 0 is iid. Effective classes: exponential of the entropy of a client's "
            "class distribution."
        ),
    )


def split_label(source: Source, record: Mapping[str, Any], runs: int) -> str:
    """Name a partition by the arms that share it."""
    arms = record.get("arms")
    names = [str(arm) for arm in arms if arm] if isinstance(arms, list) else []
    where = "; ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return ": ".join(part for part in (source.label if runs > 1 else "", where) if part) or source.label


def class_counts(record: Mapping[str, Any]) -> drawings.Counts | None:
    """Give the ``[C, classes]`` examples of a partition; None where they were not kept or are no such table."""
    import numpy as np

    try:
        counts = np.asarray(record.get("counts") or [], dtype=np.int64)
    except (ValueError, TypeError, OverflowError):
        return None
    return counts if counts.ndim == 2 and counts.size and counts.min() >= 0 else None


FACTS = {
    "clients": "clients", "examples": "examples", "size_min": "smallest", "size_median": "median",
    "size_max": "largest", "empty_clients": "empty", "total_variation": "total variation",
    "effective_classes_mean": "effective classes",
}  # fmt: skip


def _fact(value: object) -> str:
    found = real(value)
    if not math.isfinite(found):
        return "–"
    return f"{found:,.0f}" if found.is_integer() else number(found)


def _held(counts: Any) -> Html | None:
    if len(counts) > drawings.MOST_BARS:
        return None
    rows = [
        [
            str(c),
            f"{row.sum():,}",
            tag("td", ", ".join(f"{k}: {n}" for k, n in enumerate(row.tolist()) if n) or "nothing"),
        ]
        for c, row in enumerate(counts)
    ]
    return details(
        "Values as a table",
        table(["client", "examples", tag("th", "examples of each class", scope="col")], rows, label="Partition"),
    )


def _embedded(source: Source) -> Html | None:
    """Embed the picture that the run drew, where it is small enough: of thousands of clients there are no counts."""
    path = source.path / "plots" / "partition.png"
    try:
        data = path.read_bytes() if path.stat().st_size <= PICTURE_BYTES else b""
    except OSError:
        return None
    if not data.startswith(b"\x89PNG"):
        return None
    alt = f"Who holds what, {source.label}: the numbers are in the table below"
    image = tag("img", src=f"data:image/png;base64,{base64.b64encode(data).decode()}", alt=alt)
    return tag("figure", tag("figcaption", named(source.label)), image)


def clients(arms: Sequence[Arm], spread: Sequence[Html], colours: Mapping[int, int]) -> Html | None:
    """Show how the clients differ: over the rounds, and each by the last that it reported."""
    key = next((key for arm in arms for key in arm.clients if key in ("train_loss", "loss", "accuracy")), None)
    last = {
        name: (index, [value for arm in members for value in last_of_clients(arm, key).values()] if key else [])
        for index, (name, members) in enumerate(groups(arms).items())
    }
    values = [value for _, found in last.values() for value in found]
    rows = []
    if values:
        low, high = min(values), max(values)
        for name, (index, found) in last.items():
            if found and index in colours:
                label = f"{key} of {len(found)} clients, from {number(min(found))} to {number(max(found))}"
                ticks = drawings.strip(found, low, high, label, f"c{colours[index] % 8}")
                rows.append(tag("div", tag("span", named(name, colours[index]), class_="who"), ticks, class_="row"))
        words = str(key).replace("_", " ")
        strips = tag(
            "figure",
            tag(
                "figcaption",
                tag("h3", f"Last {words} of each client"),
                note(f"A tick is a client; of more than {drawings.MOST_TICKS}, bars hold the middle half and 80 %."),
            ),
            tag("div", *rows, drawings.ends(number(low), number(high), words), class_="strips"),
        )
    else:
        strips = None
    if not spread and strips is None:
        return None
    return section("clients", "How the clients differ", tag("div", *spread, strips, class_="grid"))


def last_of_clients(arm: Arm, key: str) -> dict[float, float]:
    """Give the last finite value that each client of an arm reported."""
    table = arm.clients
    if not {"client", "round", key} <= table.keys():
        return {}
    rows = sorted(zip(table["round"], table["client"], table[key], strict=True))
    return {client: value for _, client, value in rows if math.isfinite(value)}


def participation(arms: Sequence[Arm]) -> Html | None:
    """Draw who took part when, and list what each client did."""
    found = participations(arms)
    if not found:
        return None
    figures = [_heat(part) for part in found[:MOST_PICTURES]]
    more = len(found) - MOST_PICTURES
    return section(
        "participation",
        "Who took part",
        tag("div", *figures, class_="grid"),
        note(f"{more} more arms chose other cohorts and are not drawn.") if more > 0 else None,
    )


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _heat(part: Participation) -> Html:
    times, lost = part.times_replied, part.times_failed
    tall, wide = part.bins
    never = int(((times + lost) == 0).sum())
    count = len(part.clients)
    chosen = times + lost
    words = [f"{count:,} clients", f"{part.rounds:,} rounds", f"each chosen {chosen.min():,} to {chosen.max():,} times"]
    words += [f"{never:,} of them never"] if never else []
    words += [f"{int(lost.sum()):,} of {int(chosen.sum()):,} replies not used"] if lost.sum() else ["every reply used"]
    words += [f"a cell is {_several(tall, 'client')} by {_several(wide, 'round')}"] if tall * wide > 1 else []
    names = "; ".join(part.arms[:6]) + (f" and {len(part.arms) - 6} more" if len(part.arms) > 6 else "")
    label = f"Participation of {count} clients in {part.rounds} rounds; the numbers are in the table below"
    order = (
        sorted(range(count), key=lambda i: (-int(lost[i]), int(times[i])))[:MOST_LINES]
        if count > MOST_LINES
        else range(count)
    )
    rows = [[f"{part.clients[i]}", f"{chosen[i]}", f"{times[i]}", f"{lost[i]}"] for i in order]
    top = f"The {MOST_LINES} clients with the most failures or the fewest rounds." if count > MOST_LINES else ""
    entries = [("h5", "took part"), ("bad2", "reply not used")] if lost.sum() else [("h5", "took part")]
    first, last = (f"{part.clients[i]}" for i in (0, -1))
    return tag(
        "figure",
        tag(
            "figcaption",
            named(names),
            note("Clients from top to bottom, rounds from left to right: ", ", ".join(words) + "."),
        ),
        tag(
            "div",
            tag("div", tag("span", first), tag("span", last), class_="side", aria_hidden="true"),
            drawings.heat_map(*part.cells(), label),
            drawings.ends("round 1", f"round {part.rounds}"),
            class_="map",
        ),
        drawings.key(entries),
        details(
            "Values as a table",
            table(["client", "chosen", "used", "not used"], rows, label="Participation"),
            note(top) if top else None,
        ),
    )
