"""YAML as it is meant, not as YAML 1.1 had it; every value knows its place; nothing blows up."""

from __future__ import annotations

import math
import time

import pytest
import yaml

from fedmomentum.scenario.dump import as_yaml
from fedmomentum.scenario.tree import MOST_DEPTH, MOST_NODES, Unreadable, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),  # a word in YAML 1.1
        ("1.5e3", 1500.0),
        ("5.", 5.0),
        (".5", 0.5),
        ("-2", -2),
        ("010", 10),  # eight in YAML 1.1
        ("0x10", "0x10"),
        ("1_000", "1_000"),  # a thousand in YAML 1.1
        ("1:30", "1:30"),  # ninety in YAML 1.1
        ("2001-01-01", "2001-01-01"),  # a date in YAML 1.1
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("! 12", "12"),
        ("=", "="),
        ("1e5x", "1e5x"),
        ("e5", "e5"),
        (".", "."),
    ],
)
def test_a_plain_word_is_what_yaml_1_2_says(text: str, value: object) -> None:
    found = parse(f"a: {text}")[0].plain()["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "value", ["1e-3", "no", "true", "null", "~", "", "12", "0.5", ".inf", " a", "a: b", "<<", "# a"]
)
def test_what_is_dumped_reads_back_with_its_type(value: str) -> None:
    data = {
        "text": value,
        value or "k": [value, {"x": value}],
        "f": [1e-5, 1.0, -0.0, 1e300],
        "none": None,
        "yes": True,
    }
    assert parse(as_yaml(data))[0].plain() == data
    assert parse(as_yaml(data, flow=True))[0].plain() == data


def test_every_key_and_value_knows_its_place() -> None:
    root, problems = parse("a: 1\nb:\n  - x\n  - {c: 2}\n")
    assert not problems
    assert (root.members["b"].key.line, root.members["b"].key.column) == (2, 1)
    item = root.child("b").child(1)  # type: ignore[union-attr]
    assert item is not None
    assert (item.place.line, item.place.column) == (4, 5)
    assert (item.members["c"].node.place.line, item.members["c"].node.place.column) == (4, 9)


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a: [1, 2\nb: 3\n", 2, 2, "expected ',' or ']'"),
        ("a:\n\t- 1\n", 2, 1, "tab"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, 4, "tags"),
        ("a: !mine x\n", 1, 4, "tags"),
        ("a: 1\n---\nb: 2\n", 2, 1, "second YAML document"),
        ("a: *x\n", 1, 4, "alias *x stands for nothing"),
        ("a: &x [*x]\n", 1, 8, "alias *x stands for nothing"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, 3, "merge keys"),
        ("[1, 2]: x\n", 1, 1, "a key must be a word"),
        ("a: .inf\n", 1, 4, "not a finite number"),
        ("a: -.INF\n", 1, 4, "not a finite number"),
        ("a: .nan\n", 1, 4, "not a finite number"),
        (f"a: {'9' * 5000}\n", 1, 4, "not a finite number"),
        ("a: 1e999\n", 1, 4, "not a finite number"),
        ("b: 1\na: \x01\n", 2, 4, "special characters"),
        ('a: "\\ud800"\n', 1, 4, "lone surrogate"),
        ('"\\ud800": 1\n', 1, 1, "lone surrogate"),
        ("a: 'x\n", 2, 1, "end of stream"),
        ("a: [" + "[" * 100, 1, 4 + MOST_DEPTH, "levels"),
        ("a: [" + "1," * MOST_NODES + "]", 1, 5 + 2 * (MOST_NODES - 2), "aliases count in full"),
    ],
)
def test_what_is_refused_is_refused_at_its_place(text: str, line: int, column: int, words: str) -> None:
    with pytest.raises(Unreadable, match=words.replace("[", r"\[").replace("*", r"\*")) as caught:
        parse(text)
    assert (caught.value.problem.place.line, caught.value.problem.place.column) == (line, column)


def test_an_alias_bomb_is_refused_before_it_is_expanded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    began = time.perf_counter()
    with pytest.raises(Unreadable, match="aliases count in full"):
        parse("\n".join(lines))
    assert time.perf_counter() - began < 5


def test_an_alias_means_its_anchor() -> None:
    assert parse("a: &x {b: [1]}\nc: *x\n")[0].plain() == {"a": {"b": [1]}, "c": {"b": [1]}}


def test_keys_that_are_there_twice_are_all_told_and_the_first_counts() -> None:
    root, problems = parse("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert [(p.place.line, p.place.column, p.path) for p in problems] == [(2, 11, ("b", "c")), (3, 1, ("a",))]
    assert "first in line 1" in problems[1].message
    assert root.plain() == {"a": 1, "b": {"c": 1}}


def test_where_the_two_agree_it_reads_as_pyyaml() -> None:
    text = "a: [1, 2.5, -3, x y, 'q', \"\\u00e9\\n\"]\nb: |\n  two\n  lines\nc: >\n  folded\n  text\nd: {e: null, f: true}\n"
    assert parse(text)[0].plain() == yaml.safe_load(text)


def test_numbers_are_finite_or_refused() -> None:
    assert math.isfinite(parse("a: 1e308")[0].plain()["a"])
