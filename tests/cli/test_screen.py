from __future__ import annotations

import io
import math
import os
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from fedmomentum.cli.panel import LivePanel, sparkline
from fedmomentum.cli.progress import Lines, Progress
from fedmomentum.cli.quiet import ENVIRONMENT
from fedmomentum.cli.summary import best_value, headline
from fedmomentum.cli.table import table
from fedmomentum.events import End, RoundEnd, Start
from fedmomentum.report.numbers import duration, number, rate


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def rows(*accuracies: float, replies: int = 5, key: str = "accuracy") -> list[dict[str, Any]]:
    return [
        {"round": n, key: a, "replies": replies, "failures": 0, "elapsed": float(n)}
        for n, a in enumerate(accuracies, start=1)
    ]


def panel(width: int = 120, height: int = 30, arms: tuple[str, ...] = ("FedAvg", "FedAvgM")) -> tuple[LivePanel, Clock]:
    clock = Clock()
    console = Console(width=width, height=height, record=True, file=io.StringIO(), color_system=None)
    return LivePanel(console, "Does momentum help?", arms, clock=clock), clock


def draw(shown: LivePanel) -> str:
    console = Console(
        width=shown._console.width, height=shown._console.height, record=True, file=io.StringIO(), color_system=None
    )
    console.print(shown.render())
    return console.export_text()


def test_the_panel_tells_round_score_pace_and_time_left() -> None:
    shown, clock = panel()
    shown.start(Start("quick", 40, arm="FedAvg", facts={"clients": 100, "device": "cpu", "long": ["not", "shown"]}))
    shown.round_end(RoundEnd(0, 40, {"accuracy": 0.1, "loss": 2.3}, arm="FedAvg"))
    for n in range(1, 11):
        clock.now += 0.5
        shown.round_end(RoundEnd(n, 40, {"accuracy": n / 20, "loss": 1 / n, "replies": 12}, arm="FedAvg"))
    text = draw(shown)
    (running,) = [line for line in text.splitlines() if "> FedAvg" in line]
    # 10 rounds of 12 replies in 5 s: 24 a second; 30 rounds to go at 0.5 s each.
    for part in ("10/40", "0.500", "0.100", " 24 ", "15 s", "▁", "█"):
        assert part in running
    assert "Does momentum help?" in text and "clients 100  device cpu" in text and "not" not in text
    assert "FedAvgM" in text
    shown.end(End("finished", 40, arm="FedAvg"))
    assert "+ FedAvg" in draw(shown) and "finished 5.0 s" in draw(shown)


def test_a_resumed_arm_reckons_with_its_own_rounds_only() -> None:
    shown, clock = panel()
    shown.start(Start("quick", 40, first_round=31, arm="FedAvg"))
    assert "30/40" in draw(shown)
    clock.now += 8.0
    shown.round_end(RoundEnd(32, 40, {"replies": 4}, arm="FedAvg"))
    assert "32 s" in draw(shown)  # two rounds in 8 s, eight to go


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_the_panel_fits_every_width(width: int) -> None:
    shown, clock = panel(width, arms=("a name that is rather long for an arm", "b"))
    shown.start(Start("quick", 4000, arm="b"))
    clock.now += 1
    shown.round_end(RoundEnd(3999, 4000, {"accuracy": 0.123, "loss": 1e-9, "replies": 10000}, arm="b"))
    lines = draw(shown).splitlines()
    assert max(map(len, lines)) <= width
    assert len({len(line) for line in lines}) == 1
    assert any("0.123" in line for line in lines)


def test_more_arms_than_the_screen_holds_show_the_running_one() -> None:
    names = tuple(f"m={k}" for k in range(30))
    shown, _ = panel(height=12, arms=names)
    for name in names[:20]:
        shown.start(Start("quick", 5, arm=name))
        shown.end(End("finished", 5, arm=name))
    shown.start(Start("quick", 5, arm="m=20"))
    text = draw(shown)
    assert "> m=20" in text and "and 24 more" in text
    assert len(text.splitlines()) <= 12


def test_a_run_without_arms_needs_no_name() -> None:
    shown, _ = panel(arms=("",))
    shown.start(Start("quick", 5))
    assert "arm" not in draw(shown) and "0/5" in draw(shown)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ""),
        ([1.0], "█"),
        ([0.0, 1.0], "▁█"),
        ([0.0, 0.0, 1.0, 1.0], "▁▁██"),
        ([math.nan, 1.0, math.inf], " █ "),
        ([-1.0, 0.5, 1.0], "▁▅█"),
        ([0.0], "▁"),
        ([0.0] * 8 + [1.0] * 8, "▁▁██"),
    ],
)
def test_sparkline(values: list[float], expected: str) -> None:
    assert sparkline(values, 4) == expected


def test_lines_are_written_for_evaluations_and_the_last_round() -> None:
    stream, clock = io.StringIO(), Clock()
    lines = Lines(stream, clock=clock)
    lines.start(Start("quick", 4))
    for n in range(1, 5):
        clock.now += 2
        metrics = {"replies": 3, "train_loss": 0.25} | ({"accuracy": 0.5} if n == 2 else {})
        lines.round_end(RoundEnd(n, 4, metrics))
    assert stream.getvalue().splitlines() == [
        "round 2/4  accuracy 0.500  1.5 clients/s  ETA 4.0 s",
        "round 4/4  train loss 0.250  1.5 clients/s",
    ]


def test_the_start_of_the_workers_is_not_taken_for_the_pace() -> None:
    clock = Clock()
    progress = Progress(clock=clock)
    progress.start(Start("quick", 12, first_round=3))
    for n, (seconds, pace, remaining) in enumerate([(20.0, 0.5, 180.0), (2.0, 5.0, 16.0), (3.0, 4.0, 17.5)], start=3):
        clock.now += seconds
        progress.round_end(RoundEnd(n, 12, {"replies": 10}))
        [arm] = progress.arms.values()
        assert (arm.rate, arm.remaining) == (pace, remaining)


def test_rounds_that_are_told_together_did_not_take_no_time() -> None:
    """Each waits for its evaluation, which goes on beside the next round: told at 4 s and 8 s, two at a time."""
    clock = Clock()
    progress = Progress(clock=clock)
    progress.start(Start("quick", 6, first_round=3))
    rates = []
    for n, (wait, elapsed) in enumerate([(4.0, 102.0), (0.001, 104.0), (4.0, 106.0), (0.001, 108.0)], start=3):
        clock.now += wait
        progress.round_end(RoundEnd(n, 6, {"replies": 10, "elapsed": elapsed}))
        [arm] = progress.arms.values()
        rates.append(arm.rate)
    assert rates == [2.5, 5.0, 5.0, 5.0] and arm.remaining == 0.0  # 10 clients every 2 s, once the first is done


@pytest.mark.parametrize(
    ("count", "text"), [(0.125, "0.125"), (12.34, "12.3"), (999.4, "999"), (999.6, "1,000"), (1250.0, "1,250")]
)
def test_a_rate_is_written_without_an_exponent(count: float, text: str) -> None:
    assert rate(count) == text


MANY = "m6 reached accuracy 0.600 after 1 round; m5 0.500; m4 0.400; m3 0.300; 3 more arms ("


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        ({"": rows(0.5, 0.9)}, "quick reached accuracy 0.900 after 2 rounds (2.0 s, 10 client updates, 0 failures)"),
        ({"A": rows(0.5), "B": rows(0.7)}, "B reached accuracy 0.700 after 1 round; A 0.500 ("),
        ({"A": rows(0.5, key="loss"), "B": rows(0.7, key="loss")}, "A came to loss 0.500 after 1 round; B 0.700 ("),
        ({"A": rows(0.5, math.nan), "B": rows(0.2, 0.3)}, "B reached accuracy 0.300 after 2 rounds; A nan ("),
        ({"A": rows(0.5, 0.6), "B": rows(0.4)}, "A reached accuracy 0.600 after 2 rounds; B 0.400 after 1 ("),
        ({"A": rows(0.5), "B": []}, "A reached accuracy 0.500 after 1 round ("),
        (
            {str(k): rows(k / 10) for k in range(7)},
            "6 reached accuracy 0.600 after 1 round; 5 0.500; 4 0.400; 3 0.300; 3",
        ),
        ({"": rows(1, key="cohort")}, "quick did 1 round (1.0 s, 5 client updates, 0 failures)"),
        ({"": []}, "quick did 0 rounds (0.0 s, 0 client updates, 0 failures)"),
        ({"": rows(0.5, replies=1)}, "quick reached accuracy 0.500 after 1 round (1.0 s, 1 client update, 0 failures)"),
    ],
)
def test_headline(arms: dict[str, list[dict[str, Any]]], expected: str) -> None:
    assert headline(arms, name="quick").startswith(expected)
    assert headline(arms, name="quick", status="interrupted").startswith(f"interrupted: {expected}")


def test_best_value_is_the_first_best_and_never_nan() -> None:
    assert best_value(rows(0.5, 0.9, math.nan, 0.9), "accuracy") == (0.9, 2)
    assert best_value(rows(0.5, 0.1, math.nan, key="loss"), "loss") == (0.1, 2)
    assert best_value(rows(math.nan), "accuracy") is None
    assert best_value([], "accuracy") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9125, "0.912"), (0, "0.000"), (0.00123, "0.00123"), (12345.6, "1.23e+04"), (None, "-"), (math.nan, "nan")],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (9.97, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (11240, "3 h 07 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_table_aligns() -> None:
    assert table(["name", "n"], [["a", "10"], ["bcdef", "2"]]) == "name    n\na      10\nbcdef   2"


def test_hush_keeps_errors_and_what_the_user_set() -> None:
    """In a process of its own: a test that started Ray leaves Ray's handlers on these loggers."""
    code = (
        "import logging, os, sys; logging.basicConfig(stream=sys.stdout, format='%(name)s %(message)s')\n"
        "from fedmomentum.cli.quiet import hush; hush()\n"
        "print(os.environ['FLWR_TELEMETRY_ENABLED'], os.environ['RAY_USAGE_STATS_ENABLED'], flush=True)\n"
        "for name in ('flwr', 'ray'): logging.getLogger(name).setLevel(logging.DEBUG)\n"  # as both do when imported
        "for name in ('flwr', 'ray', 'ray._private.worker'):\n"
        "    logging.getLogger(name).warning('a warning'); logging.getLogger(name).error('an error')"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT}
    environment["FLWR_TELEMETRY_ENABLED"] = "1"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == ["1 0", "flwr an error", "ray an error", "ray._private.worker an error"]


def test_flower_is_silent_after_hush() -> None:
    code = (
        "from fedmomentum.cli.quiet import hush; hush()\n"
        "import logging; from flwr.common.logger import log\n"
        "log(logging.INFO, 'chatter'); log(logging.WARNING, 'chatter'); log(logging.ERROR, 'trouble')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "trouble" in done.stderr and "chatter" not in done.stdout + done.stderr
