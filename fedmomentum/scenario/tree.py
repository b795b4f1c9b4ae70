"""YAML as a tree that remembers where every key and value stands.

This is the core schema of YAML 1.2, not the one that PyYAML constructs: ``1e-3`` is a number, ``no`` and ``on`` are
words, ``010`` is ten, ``1:30`` is no number of seconds, and a date is a word. Duplicate keys and tags are refused, and
aliases are counted in full before anything is expanded. Only PyYAML's event parser is used, so nothing is ever made of
the text but dicts, lists, strings, numbers, true, false and null.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from fedmomentum.scenario.faults import show

Scalar: TypeAlias = str | int | float | bool | None

MOST_NODES = 10_000
"""Keys and values that a scenario may have once its aliases are written out: stops alias bombs."""
MOST_DEPTH = 40
"""Levels of mappings and lists inside each other."""

_INTEGER = re.compile(r"[-+]?[0-9]{1,300}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True)
class Place:
    """Where something was written: a line and column of the file, or an override."""

    line: int = 1
    column: int = 1
    override: str = ""
    """The override as it was given (``client.epochs=3``); empty for the file."""


@dataclass(frozen=True)
class Member:
    """One key of a mapping, where the key stands, and its value."""

    key: Place
    node: Node


@dataclass(frozen=True)
class Node:
    """A value and where it stands; mappings hold members, lists hold nodes."""

    value: Scalar | dict[str, Member] | list[Node]
    place: Place = field(default_factory=Place)
    size: int = 1
    """Nodes in here, written out."""

    @property
    def members(self) -> dict[str, Member]:
        """The members of a mapping; of anything else, none."""
        return self.value if isinstance(self.value, dict) else {}

    def child(self, key: str | int) -> Node | None:
        """Give the value at a key of a mapping or an index of a list, if it is there."""
        if isinstance(self.value, dict) and key in self.value:
            return self.value[key].node
        if isinstance(self.value, list) and isinstance(key, int) and 0 <= key < len(self.value):
            return self.value[key]
        return None

    def plain(self) -> Any:
        """Give the value as plain dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: member.node.plain() for key, member in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


@dataclass(frozen=True)
class Problem:
    """Something wrong at a place; the loader adds the name of the file."""

    place: Place
    path: tuple[str | int, ...]
    message: str


class Unreadable(Exception):
    """The text is no YAML from some place on; ``problem`` says where and why."""

    def __init__(self, place: Place, message: str, path: tuple[str | int, ...] = ()) -> None:
        """Keep the problem."""
        self.problem = Problem(place, path, message)
        super().__init__(message)


def scalar(text: str) -> Scalar:
    """Give what a plain (unquoted) word stands for.

    Raises:
        ValueError: it is a number without a finite value.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if not math.isfinite(number):
            raise ValueError(f"{show(text)} is not a finite number")
        return number
    return text


def parse(text: str, *, override: str = "") -> tuple[Node, list[Problem]]:
    """Read one YAML document.

    Args:
        text: the document.
        override: the override that the text is the value of; empty for a file.

    Returns:
        The tree, and what is wrong that does not stand in the way of reading on (duplicate keys).

    Raises:
        Unreadable: the text is not YAML, or uses what is refused here: tags, merge keys, more than one document.
    """
    return _Reader(text, override).document()


class _Reader:
    """Builds the tree from PyYAML's events."""

    def __init__(self, text: str, override: str) -> None:
        self.text, self.override = text, override
        self.events: Iterator[yaml.Event] = iter(())
        self.anchors: dict[str, Node] = {}
        self.problems: list[Problem] = []
        self.nodes = 0

    def document(self) -> tuple[Node, list[Problem]]:
        try:
            self.events = yaml.parse(self.text, Loader=yaml.SafeLoader)
            event = next(self.events)  # the start of the stream
            event = next(self.events)
            if isinstance(event, yaml.StreamEndEvent):
                return Node(None, self.place(event)), []
            root = self.node(next(self.events), ())
            next(self.events)  # the end of the document
            event = next(self.events)
            if not isinstance(event, yaml.StreamEndEvent):
                raise Unreadable(self.place(event), "a second YAML document begins here; a scenario is one document")
        except yaml.reader.ReaderError as error:
            line, column = _position(self.text, error.position)
            raise Unreadable(Place(line, column, self.override), f"not YAML: {error.reason}") from None
        except yaml.MarkedYAMLError as error:
            raise Unreadable(self.mark(error.problem_mark or error.context_mark), _explain(error)) from None
        except ValueError as error:  # PyYAML itself stumbles over a few escapes, such as "\U00110000"
            raise Unreadable(Place(override=self.override), f"not YAML: {error}") from None
        return root, self.problems

    def mark(self, mark: Any) -> Place:
        if mark is None or self.override:
            return Place(override=self.override)
        return Place(mark.line + 1, mark.column + 1)

    def place(self, event: yaml.Event) -> Place:
        return self.mark(event.start_mark)

    def node(self, event: yaml.Event, path: tuple[str | int, ...]) -> Node:
        place = self.place(event)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise Unreadable(place, f"alias *{event.anchor} stands for nothing: its anchor is not above it")
            node = self.anchors[event.anchor]
            self.count(node.size, place)
            return node
        assert isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent))
        if event.tag not in (None, "!"):
            raise Unreadable(place, f"tags such as {show(event.tag)} are not allowed; write plain values")
        if len(path) > MOST_DEPTH:
            raise Unreadable(place, f"more than {MOST_DEPTH} levels of mappings and lists inside each other")
        before = self.nodes
        self.count(1, place)
        value: Scalar | dict[str, Member] | list[Node]
        if isinstance(event, yaml.ScalarEvent):
            try:
                value = scalar(_word(event)) if event.style is None and event.tag is None else _word(event)
            except ValueError as error:
                raise Unreadable(place, str(error), path) from None
        elif isinstance(event, yaml.MappingStartEvent):
            value = self.mapping(path)
        else:
            value = self.sequence(path)
        node = Node(value, place, self.nodes - before)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def mapping(self, path: tuple[str | int, ...]) -> dict[str, Member]:
        members: dict[str, Member] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            place = self.place(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise Unreadable(place, "a key must be a word, not a list, a mapping or an alias")
            try:
                key = _word(event)
            except ValueError as error:
                raise Unreadable(place, str(error)) from None
            if key == "<<" and event.style is None:
                raise Unreadable(place, "merge keys ('<<') are not allowed; write the settings out, or use arms")
            member = Member(place, self.node(next(self.events), (*path, key)))
            if key in members:
                where = "" if self.override else f" (first in line {members[key].key.line})"
                self.problems.append(Problem(place, (*path, key), f"the key {show(key)} is there twice{where}"))
            else:
                members[key] = member
        return members

    def sequence(self, path: tuple[str | int, ...]) -> list[Node]:
        nodes: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            nodes.append(self.node(event, (*path, len(nodes))))
        return nodes

    def count(self, nodes: int, place: Place) -> None:
        self.nodes += nodes
        if self.nodes > MOST_NODES:
            raise Unreadable(place, f"more than {MOST_NODES:,} keys and values (aliases count in full)")


def _word(event: yaml.ScalarEvent) -> str:
    """Give the text of a scalar, which an escape such as ``"\\ud800"`` can make no text at all."""
    text = str(event.value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{show(text)} holds half a character (a lone surrogate)") from None
    return text


def _position(text: str, index: int) -> tuple[int, int]:
    before = text[:index]
    return before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "it cannot be read"
    if r"'\t'" in problem:
        return "not YAML: a tab stands where YAML wants spaces; indent with spaces"
    context = f"{error.context}, " if error.context and error.problem else ""
    return f"not YAML: {context}{problem}".replace("<", "'").replace(">", "'")
