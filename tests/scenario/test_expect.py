"""Claims: what they mean, and that each would fail were the measurement otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fedmomentum.scenario import Expectation, Fault, check_expectations, load

Write = Callable[[str], Path]

ROWS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "A": [
        {"round": 0, "accuracy": 0.1, "loss": 2.3},
        {"round": 1, "accuracy": 0.8, "loss": 0.5},
        {"round": 2, "train_loss": 0.1},
        {"round": 3, "accuracy": 0.7, "loss": 0.9},
    ],
    "B": [{"round": 1, "accuracy": 0.75, "loss": 0.4}],
}


@pytest.fixture
def check(base: str, write: Write) -> Callable[[str], Expectation]:
    """Check one claim about the arms A and B."""

    def _check(claim: str) -> Expectation:
        loaded = load(write(base + f"arms: {{A: {{}}, B: {{}}}}\nexpect:\n  - {claim}\n"))
        (found,) = check_expectations(loaded, ROWS)
        return found

    return _check


@pytest.mark.parametrize(
    ("claim", "ok"),
    [
        # the moment: the last tested round, the best one, one by its number
        ("{metric: accuracy, arm: A, ge: 0.7}", True),
        ("{metric: accuracy, arm: A, ge: 0.71}", False),
        ("{metric: accuracy, arm: A, at: best, ge: 0.8}", True),
        ("{metric: accuracy, arm: A, at: best, ge: 0.81}", False),
        ("{metric: accuracy, arm: A, at: 0, le: 0.1}", True),
        ("{metric: accuracy, arm: A, at: 0, le: 0.09}", False),
        ("{metric: loss, arm: A, at: best, le: 0.5}", True),
        ("{metric: loss, arm: A, at: best, le: 0.49}", False),
        # a prediction up to a tolerance, absolute or relative, on both sides
        ("{metric: accuracy, arm: A, about: 0.65, tolerance: 0.06}", True),
        ("{metric: accuracy, arm: A, about: 0.75, tolerance: 0.06}", True),
        ("{metric: accuracy, arm: A, about: 0.65, tolerance: 0.04}", False),
        ("{metric: accuracy, arm: A, about: 0.75, tolerance: 0.04}", False),
        ("{metric: loss, arm: A, about: 1.0, relative: 0.11}", True),
        ("{metric: loss, arm: A, about: 1.0, relative: 0.09}", False),
        ("{metric: loss, arm: A, about: 0.5, relative: 0.9}", True),
        # better than another arm: more accuracy, less loss, by a margin that may be reached exactly
        ("{metric: accuracy, arm: B, than: A}", True),
        ("{metric: accuracy, arm: A, than: B}", False),
        ("{metric: accuracy, arm: A, at: best, than: B, margin: 0.05}", True),
        ("{metric: accuracy, arm: A, at: best, than: B, margin: 0.06}", False),
        ("{metric: loss, arm: B, than: A, margin: 0.5}", True),
        ("{metric: loss, arm: A, than: B}", False),
        # what was not measured proves nothing
        ("{metric: accuracy, arm: A, at: 2, ge: 0}", False),
        ("{metric: accurcy, arm: A, le: 1}", False),
        ("{metric: train_loss, arm: A, than: B}", False),
    ],
)
def test_a_claim_holds_where_it_should_and_only_there(
    check: Callable[[str], Expectation], claim: str, ok: bool
) -> None:
    assert check(claim).ok is ok


def test_a_claim_says_what_was_predicted_and_measured(check: Callable[[str], Expectation]) -> None:
    found = check("{metric: accuracy, arm: A, at: best, ge: 0.9}")
    assert found == Expectation("A best accuracy >= 0.9: measured 0.8", False, 0.8, 0.9)
    found = check("{metric: accuracy, arm: A, than: B, margin: 0.1}")
    assert found.text == "A last accuracy better than B by 0.1: measured 0.7, B 0.75"
    assert (found.measured, found.predicted) == (0.7, 0.75)
    found = check("{metric: nothing, arm: A, at: 7, about: 2, relative: 0.1}")
    assert found == Expectation("A round 7 nothing = 2 +- 0.2: measured nothing", False, None, 2.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("relation", ["le: 0.5", "about: 0.5, tolerance: 0.1"])
def test_a_run_that_diverged_keeps_no_promise(base: str, write: Write, value: float, relation: str) -> None:
    loaded = load(write(base + f"expect: [{{metric: loss, {relation}}}]\n"))
    (found,) = check_expectations(loaded, {"": [{"round": 1, "loss": value}]})
    assert found.ok is (value == -math.inf and relation.startswith("le"))


def test_seeds_of_an_arm_count_as_their_mean(base: str, write: Write) -> None:
    claims = "expect: [{metric: m, arm: A, about: 2, tolerance: 0.001}, {metric: m, arm: 'A,seed=1', ge: 3}]\n"
    loaded = load(write(base + "arms: {A: {}, B: {}}\nsweep: {seeds: 2}\n" + claims))
    rows = {"A,seed=0": [{"round": 1, "m": 1.0}], "A,seed=1": [{"round": 1, "m": 3.0}]}
    assert [found.ok for found in check_expectations(loaded, rows)] == [True, True]
    del rows["A,seed=1"]
    assert [found.ok for found in check_expectations(loaded, rows)] == [False, False]


def test_one_arm_needs_no_name(base: str, write: Write) -> None:
    loaded = load(write(base + "expect: [{metric: m, ge: 1}]\n"))
    assert check_expectations(loaded, {"": [{"round": 1, "m": 1}]})[0].ok


@pytest.mark.parametrize(
    ("claim", "path", "words"),
    [
        ("{metric: m, arm: A}", "expect[0]", "give 'ge' or 'le' or 'about' or 'than'"),
        ("{metric: m, arm: A, ge: 1, le: 2}", "expect[0].le", "not both"),
        ("{metric: m, arm: A, about: 1}", "expect[0].about", "needs a tolerance"),
        ("{metric: m, arm: A, about: 1, tolerance: 1, relative: 1}", "expect[0].about", "one of the two"),
        ("{metric: m, arm: A, ge: 1, tolerance: 1}", "expect[0].tolerance", "belongs to 'about'"),
        ("{metric: m, arm: A, ge: 1, margin: 1}", "expect[0].margin", "belongs to 'than'"),
        ("{metric: m, arm: A, than: A}", "expect[0].than", "better than itself"),
        ("{metric: m, arm: C, ge: 1}", "expect[0].arm", "there is no arm 'C'"),
        ("{metric: m, arm: A, than: C}", "expect[0].than", "there is no arm 'C'; the arms are A, B"),
        ("{metric: m, ge: 1}", "expect[0].arm", "is missing; the arms are A, B"),
        ("{metric: m, arm: A, at: first, ge: 1}", "expect[0].at", "last or best or a whole number >= 0, not 'first'"),
        ("{metric: m, arm: A, gt: 1}", "expect[0].gt", "unknown key 'gt'"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused(
    base: str, faults_of: Callable[..., list[Fault]], claim: str, path: str, words: str
) -> None:
    faults = faults_of(base + f"arms: {{A: {{}}, B: {{}}}}\nexpect:\n  - {claim}\n")
    assert path in [fault.path for fault in faults]
    found = next(fault for fault in faults if fault.path == path)
    assert found.line == 12
    assert words in found.message
