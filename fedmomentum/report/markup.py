"""HTML that nothing can be injected into: what is not markup already is escaped, so no caller has to remember."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeAlias

VOID = frozenset({"meta", "br", "img", "input"})
"""Elements that have no content and no end."""

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


class Html(str):
    """A piece of markup. Made by :func:`tag` and :func:`join`; any other string is text."""

    __slots__ = ()


Content: TypeAlias = "Html | str | int | float | None"


def text(value: object, *, most: int = 0) -> str:
    """Give text that a page may hold: control characters and lone surrogates become U+FFFD; cut after ``most``."""
    plain = _UNPRINTABLE.sub("\ufffd", str(value))
    return plain[: most - 1] + "…" if most and len(plain) > most else plain


def markup(content: Content) -> Html:
    """Give markup as it is, and text escaped; None is nothing."""
    if isinstance(content, Html):
        return content
    return Html("" if content is None else escape(text(content)))


def join(parts: Iterable[Content], between: str = "") -> Html:
    """Put pieces side by side."""
    return Html(markup(between).join(map(markup, parts)))


def tag(name: str, /, *content: Content, **attributes: object) -> Html:
    """Make an element: ``tag("td", "<3", class_="num")`` is ``<td class="num">&lt;3</td>``.

    Args:
        name: of the element.
        content: markup, or text that is escaped.
        attributes: ``class_`` is ``class`` and ``aria_label`` is ``aria-label``; True has no value, False and None are
            left out.
    """
    words = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(f" {key}" if value is True else f' {key}="{escape(text(value))}"')
    if name in VOID:
        return Html(f"<{name}{''.join(words)}>")
    return Html(f"<{name}{''.join(words)}>{join(content)}</{name}>")


def number_cell(value: Content, **attributes: object) -> Html:
    """Make a table cell that is aligned as a number."""
    return tag("td", value, class_="num", **attributes)


def table(
    heads: Sequence[Content], rows: Iterable[Sequence[Content]], *, label: str, left: int = 1, class_: str | None = None
) -> Html:
    """Make a table that scrolls by itself where the screen is narrow, and that a keyboard can scroll.

    Args:
        heads: of the columns.
        rows: cells. Cells and heads that are ``td`` or ``th`` already stay as they are.
        label: what a screen reader calls it.
        left: columns of words; the others hold numbers. The first cell of a row is the head of the row.
        class_: CSS class.
    """
    head = join(
        cell
        if isinstance(cell, Html) and cell.startswith("<th")
        else tag("th", cell, scope="col", class_=None if column < left else "num")
        for column, cell in enumerate(heads)
    )
    body = join(tag("tr", join(_cell(cell, column, left) for column, cell in enumerate(row))) for row in rows)
    inner = tag("table", tag("thead", tag("tr", head)), tag("tbody", body), class_=class_)
    return tag("div", inner, class_="scroll", role="region", aria_label=label, tabindex=0)


def _cell(cell: Content, column: int, left: int) -> Html:
    if isinstance(cell, Html) and cell.startswith(("<td", "<th")):
        return cell
    if column == 0:
        return tag("th", cell, scope="row")
    return tag("td", cell) if column < left else number_cell(cell)


def data_block(identifier: str, value: object) -> Html:
    """Embed data as a JSON script that no value can end: ``<``, ``>`` and ``&`` are written as escapes."""
    plain = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{escape(identifier)}">{plain}</script>')
