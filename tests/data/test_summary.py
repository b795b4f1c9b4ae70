"""The summary of a partition, against closed forms and a plain count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmomentum.data import Partition, partition, summarise
from fedmomentum.errors import UserError


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 4)), min_size=1, max_size=40))
def test_counts_and_distances_are_those_of_a_plain_count(pairs: list[tuple[int, int]]) -> None:
    labels, owners = np.array(pairs).T
    split = Partition.from_owners(owners, 5)
    if not len(split.order):
        with pytest.raises(UserError, match="no examples"):
            summarise(labels, split, 4)
        return
    summary = summarise(labels, split, 4)
    p = np.array([sum(label == k for label, owner in pairs if owner >= 0) for k in range(4)]) / len(split.order)
    distances = []
    for client in range(5):
        mine = [label for label, owner in pairs if owner == client]
        assert summary.counts[client].tolist() == [mine.count(k) for k in range(4)]
        if mine:
            q = np.array([mine.count(k) for k in range(4)]) / len(mine)
            distances.append(sum(abs(q - p)) / 2)
            entropy = -sum(v * np.log(v) for v in q if v > 0)
            assert summary.effective_classes[client] == pytest.approx(np.exp(entropy))
        else:
            assert np.isnan(summary.effective_classes[client])
    assert summary.total_variation == pytest.approx(np.mean(distances))
    assert summary.as_dict()["empty_clients"] == 5 - len(distances)


@pytest.mark.parametrize("classes", [2, 5, 10])
def test_the_two_extremes(classes: int) -> None:
    """One class a client: TV = 1 - 1/K, one effective class. One mixture everywhere: TV = 0, K effective classes."""
    labels = np.repeat(np.arange(classes), 8)
    alone = summarise(labels, partition("natural", labels=labels, groups=labels), classes)
    assert alone.total_variation == pytest.approx(1 - 1 / classes)
    assert alone.effective_classes == pytest.approx(np.ones(classes))
    mixed = summarise(labels, partition("natural", labels=labels, groups=np.tile(np.arange(8), classes)), classes)
    assert mixed.total_variation == pytest.approx(0)
    assert mixed.effective_classes == pytest.approx(np.full(8, classes))


def test_numbers_and_words() -> None:
    labels = np.array([0, 0, 0, 1, 1, 0])
    summary = summarise(labels, Partition(np.arange(6), np.array([0, 3, 5, 5, 6])), 3)
    assert summary.sizes.tolist() == [3, 2, 0, 1]
    facts = summary.as_dict()
    assert (facts["clients"], facts["examples"], facts["classes"], facts["empty_clients"]) == (4, 6, 3, 1)
    assert (facts["size_min"], facts["size_median"], facts["size_max"]) == (0, 1.5, 3)
    assert facts["total_variation"] == pytest.approx((1 / 3 + 2 / 3 + 1 / 3) / 3)
    assert facts["effective_classes_mean"] == pytest.approx(1)
    for words in (
        "6 examples over 4 clients, 1 of them empty",
        "sizes 0 to 3, median 1.5",
        "0.444",
        "1.00 of 3 classes",
    ):
        assert words in str(summary)


def test_tokens_count_one_by_one() -> None:
    labels = np.array([[0, 1, 1], [2, 2, 2]])
    assert summarise(labels, Partition(np.array([1, 0]), np.array([0, 1, 2])), 3).counts.tolist() == [
        [0, 0, 3],
        [1, 2, 0],
    ]


def test_labels_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match=r"labels from 0 to 3 do not lie in 0 \.\. 2"):
        summarise([0, 3], Partition(np.arange(2), np.array([0, 2])), 3)
