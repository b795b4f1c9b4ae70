from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmomentum.report.drawings import heat_map, partition_bars
from fedmomentum.report.gather import Arm
from fedmomentum.report.participation import MOST_COLUMNS, MOST_ROWS, participations


def arm(
    replied: Sequence[tuple[int, int]], failed: Sequence[tuple[int, int]] = (), clients: object = None, label: str = "a"
) -> Arm:
    """Pairs of a client and a round."""
    table = {"client": array("d", [c for c, _ in replied]), "round": array("d", [r for _, r in replied])}
    failures: list[dict[str, Any]] = [{"client": c, "round": r} for c, r in failed]
    return Arm(label, label, {"facts": {"clients": clients}}, [], table, failures)


def test_who_was_chosen_is_who_replied_or_failed() -> None:
    [part] = participations([arm([(0, 1), (2, 1), (0, 2), (2, 2)], failed=[(2, 2), (1, 2)], clients=4)])
    assert part.clients.tolist() == [0, 1, 2, 3]
    assert part.times_replied.tolist() == [2, 0, 1, 0]
    assert part.times_failed.tolist() == [0, 1, 1, 0]
    replied, failed = part.cells()
    assert replied.tolist() == [[1, 1], [0, 0], [1, 0], [0, 0]]
    assert failed.tolist() == [[0, 0], [0, 1], [0, 1], [0, 0]]


def test_arms_of_the_same_cohorts_are_one() -> None:
    same = [arm([(0, 1), (1, 2)], clients=2, label=label) for label in "ab"]
    other = arm([(1, 1), (1, 2)], clients=2, label="c")
    lost = arm([(0, 1), (1, 2)], failed=[(1, 2)], clients=2, label="d")
    assert [part.arms for part in participations([*same, other, lost])] == [["a", "b"], ["c"], ["d"]]


@pytest.mark.parametrize("population", [None, 3, "many", float("nan")])
def test_ids_that_do_not_count_from_zero_keep_their_names(population: object) -> None:
    [part] = participations([arm([(900719925474, 1), (5, 2)], clients=population)])
    assert part.clients.tolist() == [5, 900719925474]


def test_rows_that_say_nothing_are_passed_over() -> None:
    bad = arm([(0, 0), (1, 1)], clients=2)
    bad.clients["round"][0] = float("nan")
    bad.failures.extend([{"client": "x", "round": 1}, {"round": 1}, {"client": 1, "round": 10**30}])
    [part] = participations([bad])
    assert (part.replied.tolist(), part.failed.tolist()) == ([[1, 0]], [])
    assert participations([arm([])]) == []


@given(st.integers(1, 300), st.integers(1, 700), st.integers(0, 2**32 - 1))
def test_shared_cells_lose_no_reply(clients: int, rounds: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    drawn = np.stack([chance.integers(0, clients, 50), chance.integers(1, rounds + 1, 50)], axis=1)
    pairs = [(int(c), int(r)) for c, r in np.unique(drawn, axis=0)]
    [part] = participations([arm(pairs, clients=clients)])
    replied, failed = part.cells()
    tall, wide = part.bins
    heights = [len(range(clients)[i : i + tall]) for i in range(0, clients, tall)]
    widths = [len(range(part.rounds)[i : i + wide]) for i in range(0, part.rounds, wide)]
    assert replied.shape == (len(heights), len(widths)) and len(heights) <= MOST_ROWS and len(widths) <= MOST_COLUMNS
    assert (replied * np.outer(heights, widths)).sum() == pytest.approx(len(pairs))
    assert replied.min() >= 0 and replied.max() <= 1 and not failed.any()


def area(path: str) -> dict[tuple[int, int], int]:
    """Count how often the boxes of a path cover each cell."""
    cells: dict[tuple[int, int], int] = {}
    for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\3z", path):
        for i in range(int(width)):
            cells[int(y), int(x) + i] = cells.get((int(y), int(x) + i), 0) + 1
    return cells


def where(mask: np.ndarray[Any, Any]) -> set[tuple[int, int]]:
    return {(int(y), int(x)) for y, x in np.argwhere(mask)}


def test_a_heat_map_covers_each_cell_once() -> None:
    chance = np.random.default_rng(1)
    replied = chance.integers(0, 3, (7, 11)) / 2
    failed = np.where(chance.random((7, 11)) < 0.2, 1.0, 0.0)
    drawn = heat_map(replied, failed, "label")
    paths = dict(re.findall(r'<path class="(\w+)" d="([^"]*)">', drawn))
    covered = {name: area(path) for name, path in paths.items()}
    assert set(covered["bad2"]) == where(failed)
    assert set(covered["h5"]) == where((replied == 1) & (failed == 0))
    assert set(covered["h3"]) == where((replied == 0.5) & (failed == 0))
    assert {count for cells in covered.values() for count in cells.values()} == {1}


def heights(drawn: str, kind: str) -> list[float]:
    [path] = re.findall(rf'<path class="{kind}" d="([^"]*)">', drawn)
    return [float(h) for h in re.findall(r"h\.88v([\d.e-]+)h", path)]


def test_bars_are_as_high_as_the_counts() -> None:
    drawn = partition_bars(np.array([[10, 30], [20, 0], [0, 5]]), "label")
    assert heights(drawn, "k0") == [25, 50]
    assert heights(drawn, "k1") == [75, 12.5]
    assert "client 0: 40 examples (10 of class 0, 30 of class 1)" in drawn


def test_many_classes_share_colours_and_many_clients_share_bars() -> None:
    counts = np.zeros((600, 25), dtype=int)
    counts[np.arange(600), np.arange(600) % 25] = 8
    drawn = partition_bars(counts, "label")
    total = sum(sum(heights(drawn, f"k{k}")) for k in range(10))
    assert total == pytest.approx(120 * 100)
    assert sorted(sum(heights(drawn, f"k{k}")) / 480 for k in range(10)) == pytest.approx([2] * 5 + [3] * 5)
