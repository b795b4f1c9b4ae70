"""Blocks, faults, and Flower's private names."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedmomentum.clients.spec import ClientSpec, ModelSpec
from fedmomentum.simulation import flower
from fedmomentum.simulation.blocks import BLOCK_LIMIT, automatic_block_size, cut
from fedmomentum.simulation.faults import Faults, Outcome, Stragglers
from fedmomentum.simulation.grid import SimulationGrid
from fedmomentum.strategies.records import filled, of_kind


@given(st.lists(st.integers(0, 10_000), unique=True, max_size=200), st.integers(0, 50), st.randoms())
def test_blocks_are_a_partition_in_falling_order_of_work(clients, size, random):
    work = {c: float(c % 7) for c in clients}
    size = size or automatic_block_size(len(clients))
    blocks = cut(clients, [work[c] for c in clients], size)
    flat = [c for block in blocks for c in block]
    assert sorted(flat) == sorted(clients)
    assert [work[c] for c in flat] == sorted(work.values(), reverse=True)
    assert all(len(b) <= size for b in blocks)
    shuffled = list(clients)
    random.shuffle(shuffled)
    assert cut(shuffled, [work[c] for c in shuffled], size) == blocks


def test_automatic_blocks_leave_work_for_several_workers():
    assert automatic_block_size(1) == 1
    assert automatic_block_size(10) == 2
    assert automatic_block_size(100) == 13
    assert automatic_block_size(10_000) == BLOCK_LIMIT
    assert automatic_block_size(100, stacked=True) == 50


def test_dropout_rate_and_seed():
    clients = list(range(4000))
    faults = Faults(dropout=0.3, seed=1)
    out = faults.outcome(1, clients, [1.0] * len(clients))
    # binomial: five standard deviations
    assert abs(len(out.failures) / 4000 - 0.3) < 5 * (0.21 / 4000) ** 0.5
    assert {f.kind for f in out.failures} == {"dropout"}
    assert out == faults.outcome(1, clients, [1.0] * len(clients))
    assert out.clients != faults.outcome(2, clients, [1.0] * len(clients)).clients
    assert sorted([*out.clients, *(f.client for f in out.failures)]) == clients


def test_whether_a_client_drops_out_does_not_depend_on_who_else_was_chosen():
    faults = Faults(dropout=0.5, seed=1)
    whole = {f.client for f in faults.outcome(3, range(100), [1.0] * 100).failures}
    part = {f.client for f in faults.outcome(3, range(0, 100, 3), [1.0] * 34).failures}
    assert part == whole & set(range(0, 100, 3))


def test_a_trace_says_who_is_absent():
    faults = Faults(trace={2: frozenset({1, 5})})
    assert faults.outcome(1, [1, 5, 6], [1.0] * 3).failures == ()
    out = faults.outcome(2, [1, 5, 6], [1.0] * 3)
    assert out.clients == (6,)
    assert [(f.client, f.kind) for f in out.failures] == [(1, "dropout"), (5, "dropout")]


def test_speeds_are_log_normal_and_belong_to_clients():
    stragglers = Stragglers(sigma=0.5, seed=3)
    logs = np.log([stragglers.speed(c) for c in range(4000)])
    assert abs(logs.mean()) < 5 * 0.5 / 4000**0.5
    assert abs(logs.std() - 0.5) < 5 * 0.5 / (2 * 4000) ** 0.5
    assert stragglers.speed(7) == Stragglers(sigma=0.5, seed=3).speed(7)


def test_late_clients_are_dropped_or_do_what_they_can():
    clients, work = list(range(200)), [10.0] * 200
    stragglers = Stragglers(sigma=1.0, deadline=1.0, late="drop", seed=0)
    slow = {c for c in clients if stragglers.speed(c) < 1.0}
    dropped = Faults(stragglers=stragglers).outcome(1, clients, work)
    assert {f.client for f in dropped.failures} == slow
    assert {f.kind for f in dropped.failures} == {"late"}
    assert dropped.duration == 1.0
    partial = Faults(stragglers=Stragglers(sigma=1.0, deadline=1.0, late="partial", seed=0)).outcome(1, clients, work)
    for client, effort in partial.effort.items():
        assert effort == pytest.approx(stragglers.speed(client))
    assert {f.client for f in partial.failures} == {c for c in slow if stragglers.speed(c) < 0.1}
    unlimited = Faults(stragglers=Stragglers(sigma=1.0, deadline=None, seed=0)).outcome(1, clients, work)
    assert len(unlimited.clients) == 200
    assert unlimited.duration == pytest.approx(1 / min(stragglers.speed(c) for c in clients))


def test_the_private_names_of_flower_are_where_the_engine_expects_them():
    """Fails loudly when a new Flower moves one: see fedmomentum/simulation/flower.py."""
    flower.adopt_identity(1)
    message = Message(RecordDict({"arrays": ArrayRecord()}), dst_node_id=0, message_type="train")
    flower.stamp(message, "m1")
    assert message.metadata.message_id == "m1"
    answer = flower.reply(message, RecordDict())
    assert answer.metadata.reply_to_message_id == "m1"
    assert answer.metadata.src_node_id == 0
    error = flower.error_reply(message, "why")
    assert error.has_error() and error.error.reason == "why"
    assert flower.empty_run(3).run_id == 3


@pytest.mark.parametrize("message_type", ["train", "evaluate", "train.gradient"])
def test_a_reply_to_an_unseen_message_is_flowers(message_type):
    flower.adopt_identity(1)
    message, content = Message(RecordDict(), dst_node_id=7, message_type=message_type), RecordDict()
    flower.stamp(message, "m3")
    usual = flower.reply(message, content)
    mine = flower.reply_unseen(content, node=7, identity="m3", message_type=message_type)
    assert vars(mine).keys() == vars(usual).keys() and mine.content is content and not mine.has_error()
    times = {"_created_at", "_ttl"}
    a, b = ({name: x for name, x in vars(m.metadata).items() if name not in times} for m in (mine, usual))
    assert a == b and vars(mine.metadata).keys() == vars(usual.metadata).keys()
    assert mine.metadata.created_at == pytest.approx(usual.metadata.created_at, abs=60)
    assert mine.metadata.ttl == pytest.approx(usual.metadata.ttl, abs=60)


@given(st.lists(st.tuples(st.sets(st.integers(0, 9), min_size=1), st.booleans(), st.integers(1, 4)), max_size=8))
def test_blocks_that_come_again_are_those_of_their_clients_and_their_work(rounds):
    """The engine cuts a cohort once; what a straggler has time for is another matter each time."""
    wanted = ClientSpec(ModelSpec("logistic", (2,), 2), {"name": "sgd", "lr": 0.1}, batch_size=1)
    sizes = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    grid = SimulationGrid(None, wanted, sizes)
    for clients, late, size in rounds:
        effort = {min(clients): 0.5} if late else {}
        work = [sizes[c] * effort.get(c, 1.0) for c in sorted(clients)]
        outcome = Outcome(tuple(sorted(clients)), effort, ())
        assert grid._blocks(outcome, size) == cut(outcome.clients, work, size)


def test_records_are_filled_as_by_assignment():
    """Where Flower keeps the entries of a record is private: see strategies/records.py."""
    for made, entries in (
        (MetricRecord, {"loss": 1.0, "steps": 2}),
        (ConfigRecord, {"clients": [1, 2], "note": "x"}),
        (ArrayRecord, {"w": Array(np.ones(2))}),
        (RecordDict, {"arrays": ArrayRecord(), "metrics": MetricRecord({"loss": 1.0})}),
    ):
        record = made()
        for name, value in entries.items():
            record[name] = value
        assert filled(made(), entries) == record
        assert dict(filled(made(), entries)) == entries
    content = RecordDict({"b": MetricRecord(), "a": ArrayRecord(), "c": MetricRecord({"n": 1})})
    assert of_kind(content, MetricRecord) == dict(content.metric_records)
    assert of_kind(content, ArrayRecord) == dict(content.array_records)


@given(
    st.lists(st.integers(0, 300), max_size=20),
    st.integers(1, 40) | st.none(),
    st.one_of(st.tuples(st.integers(1, 4), st.none()), st.tuples(st.none(), st.integers(1, 9))),
)
def test_planned_steps_of_many_clients_are_those_of_each(sizes, batch_size, length):
    epochs, steps = length
    model = ModelSpec("logistic", (2,), 2)
    spec = ClientSpec(model, {"name": "sgd", "lr": 0.1}, epochs=epochs, steps=steps, batch_size=batch_size)
    assert spec.steps_of(np.array(sizes, np.int64)).tolist() == [spec.steps_for(n) for n in sizes]


def test_records_keep_shapes_and_dtypes():
    arrays = {"a": np.arange(6, dtype=np.float64).reshape(2, 3).T, "n": np.array(3, dtype=np.int64)}
    back = flower.to_arrays(flower.to_record(arrays))
    for name, value in arrays.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].dtype == value.dtype and back[name].shape == value.shape
