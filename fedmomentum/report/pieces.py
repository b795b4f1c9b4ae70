"""Parts that the sections of a report share."""

from __future__ import annotations

from fedmomentum.report.markup import Content, Html, join, tag, text

MOST_LINES = 200
"""Rows of a long table."""
MOST_NAME = 120
"""Characters of a name."""


def section(identifier: str, title: str, *content: Content) -> Html:
    """Make a section with a heading that links can lead to."""
    heading = tag("h2", title, id=f"{identifier}-title")
    return tag("section", heading, *content, id=identifier, aria_labelledby=f"{identifier}-title")


def details(summary: Content, *content: Content) -> Html:
    """Make a part that opens on demand."""
    return tag("details", tag("summary", summary), *content)


def note(*content: Content) -> Html:
    """Make a line of small print."""
    return tag("p", *content, class_="note")


def named(name: str, colour: int | None = None) -> Html:
    """Write the name of an arm, its colour before it; a name is cut where it is long, and never changes direction."""
    swatch = tag("span", class_=swatch_class(colour), aria_hidden="true") if colour is not None else None
    return join([swatch, tag("bdi", text(name, most=MOST_NAME))])


def swatch_class(colour: int) -> str:
    """Give the CSS classes of a line of a colour: eight hues, then the same ones dashed and dotted."""
    return f"line c{colour % 8} d{colour // 8 % 3}"
