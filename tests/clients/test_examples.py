"""Data that do not fit where clients train: the same bits from examples that are sent a block at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedmomentum.clients import examples
from fedmomentum.clients.worker import Worker
from tests.clients.federation import federation, records, spec, train_task


@pytest.mark.parametrize(
    "settings",
    [
        {"vectorize": "off"},
        {"vectorize": "on"},
        {"vectorize": "on", "gram_memory": 0.0, "options": {"hidden": [40]}},
        {"vectorize": "on", "optimizer": {"name": "adam", "lr": 0.01}},
    ],
)
def test_examples_that_are_sent_by_the_block_train_to_the_same_bits(monkeypatch, settings):
    wanted, found = spec(**settings), []
    for there in (True, False):
        monkeypatch.setattr(examples, "fits", lambda size, device, there=there: there)
        worker = Worker(wanted, federation())
        assert worker.examples.resident == there
        blocks = [(4, 0, 2), (1, 3, 5)]
        tasks = [train_task(clients, reduce=reduce) for clients in blocks for reduce in (True, False)]
        results = [worker.run(task, records(wanted)) for task in tasks]
        assert not any(result.failures for result in results)
        found.append([each["arrays"] for result in results for each in result.each or [result.mean]])
    for one, other in zip(*found, strict=True):
        for name, x in one.items():
            np.testing.assert_array_equal(other[name], x)


def test_half_of_the_free_memory_of_a_gpu_is_for_data(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    assert [examples.fits(size, "cuda:0") for size in (500, 501)] == [True, False]
    assert examples.fits(10**15, "cpu")
