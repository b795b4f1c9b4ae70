"""What holds exactly for every partition, whatever is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmomentum.data import PARTITIONERS, Partition, partition
from fedmomentum.errors import UserError

OPTIONS: dict[str, dict[str, Any]] = {
    "iid": {},
    "dirichlet": {"alpha": 0.3},
    "dirichlet_per_class": {"alpha": 0.3},
    "shards": {"shards_per_client": 1},
    "quantity": {"alpha": 0.5},
    "natural": {},
}
CASES = [
    *OPTIONS.items(),
    ("dirichlet", {"alpha": 1e-9}),
    ("dirichlet", {"alpha": 1e9}),
    ("dirichlet_per_class", {"alpha": 1e-9, "balance": True}),
    ("dirichlet_per_class", {"alpha": 1e9, "min_examples": 0}),
    ("quantity", {"sigma": 3.0}),
    ("quantity", {"alpha": 1e-9, "min_examples": 0}),
]


def same(a: Partition, b: Partition) -> bool:
    return np.array_equal(a.order, b.order) and np.array_equal(a.offsets, b.offsets)


def test_every_partitioner_has_a_case() -> None:
    assert OPTIONS.keys() == PARTITIONERS.keys()


@pytest.mark.parametrize(("name", "options"), CASES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_disjoint_and_as_complete_as_documented(name: str, options: dict[str, Any], data: st.DataObject) -> None:
    clients = data.draw(st.integers(1, 12))
    labels = data.draw(st.lists(st.integers(0, 5), min_size=clients, max_size=60))
    groups = np.arange(len(labels)) % clients
    split = partition(name, labels=labels, groups=groups, clients=clients, seed=data.draw(st.integers(0, 9)), **options)
    assert len(split) == clients
    assert len(np.unique(split.order)) == len(split.order)
    assert set(split.order.tolist()) <= set(range(len(labels)))
    assert np.array_equal(np.concatenate([split.indices(c) for c in range(clients)]), split.order)
    assert split.order.dtype == split.offsets.dtype == np.int32
    if name == "dirichlet":
        assert set(split.sizes.tolist()) == {len(labels) // clients}
    else:
        assert len(split.order) == len(labels)
        assert split.sizes.min() >= options.get("min_examples", 1)
    if name in ("iid", "shards"):
        assert np.ptp(split.sizes) <= 1


@pytest.mark.parametrize(("name", "options"), OPTIONS.items())
def test_the_seed_decides(name: str, options: dict[str, Any]) -> None:
    labels = np.arange(400) % 10
    make: Callable[[int], Partition] = lambda seed: partition(  # noqa: E731
        name, labels=labels, groups=np.arange(400) // 10, clients=20, seed=seed, **options
    )
    assert same(make(3), make(3))
    assert not same(make(3), make(4))


@given(st.lists(st.integers(-1, 6), min_size=1, max_size=40))
def test_owners_come_back(owners: list[int]) -> None:
    split = Partition.from_owners(np.array(owners), 8)
    for client in range(8):
        assert split.indices(client).tolist() == [i for i, owner in enumerate(owners) if owner == client]
    assert split.owners().tolist() == sorted(owner for owner in owners if owner >= 0)


def test_many_clients_sort_like_few() -> None:
    owners = np.random.default_rng(0).permutation(70_000)  # more than 16 bits count
    assert np.array_equal(Partition.from_owners(owners, 70_000).order, np.argsort(owners))


def test_indices_are_a_view_of_known_clients() -> None:
    split = partition("iid", labels=np.zeros(10), clients=3)
    assert np.shares_memory(split.indices(1), split.order)
    for client in (-1, 3):
        with pytest.raises(IndexError, match=rf"client {client} is not in 0 \.\. 2"):
            split.indices(client)


@pytest.mark.parametrize("offsets", [[0], [1, 3], [0, 2], [0, 4], [0, 2, 1, 3], [[0, 3]]])
def test_offsets_must_describe_the_order(offsets: Any) -> None:
    with pytest.raises(ValueError, match="offsets"):
        Partition(np.arange(3), np.array(offsets))


def test_natural_clients_are_their_groups() -> None:
    groups = np.array([30, 10, 30, 20, 10])
    split = partition("natural", labels=np.zeros(5), groups=groups)
    assert [split.indices(c).tolist() for c in range(3)] == [[1, 4], [3], [0, 2]]
    fewer = partition("natural", labels=np.zeros(5), groups=groups, clients=2)
    chosen = [set(groups[fewer.indices(c)].tolist()) for c in range(2)]
    assert all(len(names) == 1 for names in chosen)
    assert chosen[0] != chosen[1]
    assert sum(fewer.sizes) == sum(int((groups == names.pop()).sum()) for names in chosen)


def test_sequences_can_be_dealt_out_where_labels_do_not_matter() -> None:
    labels = np.zeros((12, 5), np.int64)
    for name, options in (("iid", {}), ("quantity", {"sigma": 1.0}), ("natural", {})):
        split = partition(name, labels=labels, groups=np.arange(12) % 4, clients=4, **options)
        assert sorted(split.order.tolist()) == list(range(12))


LABELS = np.arange(20) % 4
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("dirichlett", {}, "no partition is called 'dirichlett'; did you mean 'dirichlet'?"),
    ("dirichlet", {"clients": 5}, "'dirichlet' needs the option 'alpha'"),
    ("dirichlet", {"clients": 5, "alhpa": 1}, "no option 'alhpa'; did you mean 'alpha'?"),
    ("dirichlet", {"clients": 5, "alpha": 0}, "alpha = 0 must be a finite number > 0"),
    ("dirichlet", {"clients": 5, "alpha": float("inf")}, "alpha = inf must be a finite number"),
    ("dirichlet", {"clients": 5, "alpha": "1"}, "alpha = '1' must be a finite number"),
    ("dirichlet", {"clients": 5, "alpha": 1, "examples_per_client": 5}, "whole number >= 1 and <= 4"),
    ("dirichlet", {"clients": 21, "alpha": 1}, "need 21 examples of 20; at most 20 clients"),
    ("dirichlet", {"clients": 2, "alpha": 1, "labels": np.zeros((20, 3))}, "labels have shape [20, 3]"),
    ("dirichlet_per_class", {"clients": 5, "alpha": -1}, "alpha = -1 must be"),
    ("dirichlet_per_class", {"clients": 5, "alpha": 1, "min_examples": 5}, "at most 4 clients"),
    ("iid", {}, "needs the number of clients"),
    ("iid", {"clients": 0}, "clients = 0 must be a whole number >= 1"),
    ("iid", {"clients": True}, "clients = True must be a whole number"),
    ("iid", {"clients": 21}, "at most 20 clients"),
    ("iid", {"clients": 2, "alpha": 1}, "no option 'alpha'; known: none"),
    ("shards", {"clients": 11}, "at most 10 clients"),
    ("shards", {"clients": 2, "shards_per_client": 0}, "shards_per_client = 0"),
    ("quantity", {"clients": 2}, "give alpha (Dirichlet sizes) or sigma"),
    ("quantity", {"clients": 2, "alpha": 1, "sigma": 1}, "one of the two"),
    ("quantity", {"clients": 2, "sigma": -1}, "sigma = -1 must be a finite number >= 0"),
    ("natural", {}, "names no natural clients"),
    ("natural", {"groups": np.zeros(3)}, "groups has shape [3], but there are 20 examples"),
    ("natural", {"groups": np.zeros(20), "clients": 2}, "2 clients, but the data set has 1 natural ones"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), REFUSED)
def test_impossible_requests_say_what_would_be_possible(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        partition(name, **{"labels": LABELS} | arguments)
    assert message in str(caught.value)
