from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmomentum.clients import batches
from fedmomentum.clients.batches import plan, plans
from fedmomentum.clients.library import available
from fedmomentum.streams import Streams, stream

from .federation import spec


@pytest.mark.parametrize("examples", [1, 7, 8, 9, 64])
@pytest.mark.parametrize("epochs", [1, 3])
def test_every_epoch_sees_every_example_once(examples, epochs):
    table = plan(spec(epochs=epochs), examples, round=1, client=0)
    assert table.shape[0] == spec(epochs=epochs).steps_for(examples)
    for rows in np.split(table, epochs):
        assert sorted(rows[rows >= 0]) == list(range(examples))


def test_steps_are_exact_whatever_the_size():
    for examples in (1, 5, 8, 40):
        assert len(plan(spec(epochs=None, steps=11), examples, round=1, client=0)) == 11


def test_the_plan_depends_on_seed_round_and_client_alone():
    first = plan(spec(), 30, round=2, client=4)
    np.testing.assert_array_equal(first, plan(spec(), 30, round=2, client=4))
    for other in (
        plan(spec(), 30, round=3, client=4),
        plan(spec(), 30, round=2, client=5),
        plan(spec(seed=6), 30, round=2, client=4),
    ):
        assert (first != other).any()


def test_a_batch_of_all_examples():
    assert plan(spec(batch_size=None), 30, round=1, client=0).shape == (1, 30)


def test_partial_work_is_the_beginning_of_the_whole():
    whole, half = plan(spec(), 64, round=1, client=0), plan(spec(), 64, round=1, client=0, effort=0.5)
    np.testing.assert_array_equal(half, whole[:4])
    assert len(plan(spec(), 64, round=1, client=0, effort=1e-9)) == 1


def test_epochs_and_steps_exclude_each_other():
    with pytest.raises(ValueError, match="either epochs or steps"):
        spec(epochs=1, steps=2)
    with pytest.raises(ValueError, match="either epochs or steps"):
        spec(epochs=None)


def test_streams_one_after_another_are_those_made_one_by_one():
    many = Streams(5, "batches")
    for client, round in [(0, 1), (7, 3), (0, 1), (2**31, 2)]:
        kept = many.at(client=client, round=round)
        single = stream(5, "batches", client=client, round=round)
        assert kept.random(3).tolist() == single.random(3).tolist()
        assert kept.integers(0, 7, 3, dtype=np.int32).tolist() == single.integers(0, 7, 3, dtype=np.int32).tolist()
        kept.standard_normal(5, dtype=np.float32)  # leaves half a draw behind, which the next stream must not see


def test_streams_along_a_coordinate_are_those_of_each_value():
    many = Streams(5, "batches")
    for clients in ([0, 7, 2**31], [1]):
        for client, kept in zip(clients, many.along("client", clients, round=3), strict=True):
            assert kept.random(3).tolist() == stream(5, "batches", client=client, round=3).random(3).tolist()
    alone = next(Streams(5, "noise").along("step", [4]))
    assert alone.random() == stream(5, "noise", step=4).random()


def test_plans_of_many_clients_are_those_of_each():
    wanted, counts, effort = spec(epochs=2), {4: 30, 1: 8, 9: 30, 2: 3}, [1.0, 0.5, 0.3, 1.0]
    found = plans(wanted, counts, Streams(wanted.seed, "batches"), round=2, effort=effort)
    assert list(found) == list(counts)
    for (client, n), part in zip(counts.items(), effort, strict=True):
        np.testing.assert_array_equal(found[client], plan(wanted, n, round=2, client=client, effort=part))
    whole = plans(wanted, counts, Streams(wanted.seed, "batches"), round=2)
    np.testing.assert_array_equal(whole[9], plan(wanted, 30, round=2, client=9))


@pytest.mark.skipif(not available(), reason="the package was installed without a C compiler")
@settings(max_examples=30, deadline=None)
@given(
    counts=st.dictionaries(st.integers(0, 2**40), st.integers(1, 300), min_size=1, max_size=8),
    epochs=st.integers(1, 3),
    batch=st.one_of(st.none(), st.integers(1, 40)),
    seed=st.integers(0, 2**40),
)
def test_compiled_permutations_are_those_of_numpy(counts, epochs, batch, seed):
    wanted = spec(epochs=epochs, batch_size=batch, seed=seed)
    compiled = plans(wanted, counts, Streams(seed, "batches"), round=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "library", lambda: None)
        drawn = plans(wanted, counts, Streams(seed, "batches"), round=3)
    assert list(compiled) == list(drawn) == list(counts)
    for client, n in counts.items():
        np.testing.assert_array_equal(compiled[client], drawn[client])
        rng = stream(seed, "batches", client=client, round=3)
        for rows in np.split(compiled[client], epochs):
            np.testing.assert_array_equal(rows[rows >= 0], rng.permutation(n))
