"""Where clients' examples lie changes no bit of what clients send, nor of what a test of the model finds."""

from __future__ import annotations

import numpy as np
import pytest

from fedmomentum.clients import examples
from fedmomentum.clients.central import CentralTask
from fedmomentum.clients.worker import Worker
from fedmomentum.data import Dataset, FeatureShift, FederatedData, Partition, arrange
from tests.clients.federation import SIZES, federation, records, spec, train_task


def scattered(**options):
    """Give the federation of the tests with a data set in which examples are shuffled, and some are nobody's."""
    data, rng = federation(), np.random.default_rng(2)
    place = rng.permutation(len(data.y) + 15)[: len(data.y)]
    x, y = rng.random((len(data.y) + 15, *data.x.shape[1:]), np.float32), rng.integers(0, 3, len(data.y) + 15)
    x[place], y[place] = data.x, data.y
    dataset = Dataset(name="test", x=x, y=y, test_x=x[:20], test_y=y[:20], classes=3)
    return FederatedData.build(dataset, Partition(place, data.partition.offsets), **options)


def same_bits(one, other):
    assert not one.failures and not other.failures
    for a, b in zip(one.each or [one.mean], other.each or [other.mean], strict=True):
        for record, arrays in a.items():
            for name, x in arrays.items():
                np.testing.assert_array_equal(b[record][name], x, err_msg=name)
    assert one.members == other.members


@pytest.mark.parametrize("there", [True, False], ids=["resident", "sent by the block"])
@pytest.mark.parametrize("options", [{}, {"validation": 0.3}, {"validation": 0.3, "shift": FeatureShift(noise=0.1)}])
@pytest.mark.parametrize(
    "settings",
    [
        {"vectorize": "off"},
        {"vectorize": "on"},
        {"vectorize": "on", "options": {"hidden": []}},
        {"vectorize": "on", "gram_memory": 0.0, "options": {"hidden": [40]}},
        {"vectorize": "on", "optimizer": {"name": "adam", "lr": 0.01}},
    ],
)
def test_clients_send_the_same_bits(monkeypatch, settings, options, there):
    monkeypatch.setattr(examples, "fits", lambda size, device: there)
    wanted, data = spec(**settings), scattered(**options)
    before, after = Worker(wanted, data), Worker(wanted, arrange(data))
    assert after.examples.data.arranged
    for clients in (range(len(SIZES)), (4, 0, 2), (3, 5)):
        for reduce in (True, False):
            task = train_task(clients, reduce=reduce)
            same_bits(before.run(task, records(wanted)), after.run(task, records(wanted)))
    for kind in ("gradient", "evaluate"):
        task = train_task(kind=kind)
        one, other = before.run(task, records(wanted)), after.run(task, records(wanted))
        assert one.members == other.members and not one.failures and not other.failures


def test_batch_norm_is_measured_on_the_same_examples_in_the_same_order():
    wanted = spec("resnet", options={"depth": 8, "width": 4, "norm": "batch"})
    data = scattered(validation=0.3)
    found = [
        Worker(wanted, held).test(CentralTask(3, seed=1, batch_size=16, recalibrate=50), records(wanted))[0]
        for held in (data, arrange(data))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("validation", [0.0, 0.3])
def test_a_model_that_writes_to_its_inputs_does_not_change_the_data(validation):
    wanted, data = spec(vectorize="off"), arrange(scattered(validation=validation))
    before, worker = data.x.copy(), Worker(wanted, data)
    worker.network.module.register_forward_pre_hook(lambda module, given: (given[0].sub_(1.0),))
    for kind in ("train", "gradient", "evaluate"):
        assert not worker.run(train_task(kind=kind), records(wanted)).failures
    np.testing.assert_array_equal(data.x, before)
