"""A tiny federation for tests: unequal clients, one of them with more data than the rest together."""

from __future__ import annotations

import numpy as np

from fedmomentum.clients.block import BlockTask
from fedmomentum.clients.collect import to_arrays
from fedmomentum.clients.network import Network
from fedmomentum.clients.spec import ClientSpec, ModelSpec
from fedmomentum.data import Dataset, FederatedData, Partition

SIZES = (60, 7, 20, 13, 1, 33)


def federation(sizes=SIZES, *, shape=(1, 6, 6), classes=3, poison=None, **options) -> FederatedData:
    """Give random data cut into clients of the given sizes; `poison` names a client whose first example is NaN."""
    rng = np.random.default_rng(7)
    count = sum(sizes)
    x = rng.standard_normal((count, *shape)).astype(np.float32)
    y = rng.integers(0, classes, count)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    if poison is not None:
        x[offsets[poison]] = np.nan
    dataset = Dataset(
        name="test",
        x=x,
        y=y,
        test_x=x[:20],
        test_y=y[:20],
        classes=classes,
    )
    order = np.arange(count)
    return FederatedData.build(dataset, Partition(order, offsets), **options)


def spec(model="mlp", *, shape=(1, 6, 6), classes=3, options=None, optimizer=None, **settings) -> ClientSpec:
    """Give a spec of local heavy-ball training, without compiled code unless it is asked for."""
    hidden = {"mlp": {"hidden": [8]}}.get(model, {}) if options is None else options
    return ClientSpec(
        model=ModelSpec(model, shape, classes, 3, hidden),
        optimizer=optimizer or {"name": "heavy_ball", "lr": 0.1, "momentum": 0.9},
        **{"batch_size": 8, "seed": 5, "native": False, **settings},
    )


def records(wanted: ClientSpec) -> dict:
    """Give the records of a round: the model at its start."""
    return {"arrays": to_arrays(Network(wanted.model).tree())}


EVERYONE = range(len(SIZES))


def train_task(clients=EVERYONE, **settings) -> BlockTask:
    return BlockTask(
        **{"index": 0, "kind": "train", "round": 1, "clients": tuple(clients), "reduce": False, **settings}
    )
