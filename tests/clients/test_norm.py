"""Batch norm: averaged, kept by each client, held still, and measured anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedmomentum.clients.batches import plan
from fedmomentum.clients.block import BlockTask
from fedmomentum.clients.network import Network
from fedmomentum.clients.norm import batch_norms, norm_tensors, recalibrate
from fedmomentum.clients.worker import Worker

from .federation import federation, records, spec, train_task

SHAPE = (1, 8, 8)
SIZES = (12, 9)
MODEL = {"model": "resnet", "shape": SHAPE, "options": {"depth": 8, "width": 2, "norm": "batch"}}


def wanted_for(policy, **settings):
    optimizer = {"name": "sgd", "lr": 0.05}
    return spec(**MODEL, optimizer=optimizer, batch_norm=policy, batch_size=4, **settings)


@pytest.fixture
def data():
    return federation(SIZES, shape=SHAPE, validation=0.0)


def train(module, x, y, rows, *, frozen=False):
    """A plain torch loop, sharing no code with the trainer."""
    module.train()
    if frozen:
        for layer in batch_norms(module).values():
            layer.eval()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for chosen in rows:
        chosen = chosen[chosen >= 0]
        optimizer.zero_grad()
        F.cross_entropy(module(torch.from_numpy(x[chosen])), torch.from_numpy(y[chosen])).backward()
        optimizer.step()


def close(a, b):
    for name in a:
        np.testing.assert_allclose(a[name], np.asarray(b[name]), rtol=2e-4, atol=2e-5, err_msg=name)


def test_the_tensors_of_batch_norm_are_found():
    network = Network(wanted_for("average").model)
    found = norm_tensors(network.module)
    running = {n for n in network.tree() if n.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert running and running < found < set(network.tree())
    assert len(found) * 3 == len(running) * 5


def test_two_rounds_of_local_batch_norm(data):
    """The second round starts from the server's weights with the client's own batch norm, as FedBN has it."""
    wanted = wanted_for("local")
    worker = Worker(wanted, data)
    first = worker.run(train_task([0]), records(wanted))
    server = {
        n: np.asarray(a + a.dtype.type(0.5 if a.dtype.kind == "f" else 1)) for n, a in first.each[0]["arrays"].items()
    }
    second = worker.run(train_task([0], round=2, memory=first.memory), {"arrays": server})

    module, (x, y) = Network(wanted.model).module, data.train_arrays(0)
    train(module, x, y, plan(wanted, len(y), round=1, client=0))
    own = {n: t.clone() for n, t in module.state_dict().items() if n in norm_tensors(module)}
    module.load_state_dict({n: torch.from_numpy(a) for n, a in server.items()} | own)
    train(module, x, y, plan(wanted, len(y), round=2, client=0))
    close(second.each[0]["arrays"], {n: t.detach() for n, t in module.state_dict().items()})


def test_clients_are_tested_with_their_own_batch_norm(data):
    wanted = wanted_for("local")
    worker = Worker(wanted, data)
    trained = worker.run(train_task([0, 1]), records(wanted))
    found = worker.run(BlockTask(0, "evaluate", 1, (0, 1), memory=trained.memory), records(wanted))
    for position, client in enumerate(found.members["client"]):
        network = Network(wanted.model)
        own = trained.memory[int(client)]["norm/"]
        network.load(network.tree() | {n: t.clone() for n, t in own.items()})
        network.module.eval()
        x, y = data.train_arrays(int(client))
        loss = F.cross_entropy(network.module(torch.from_numpy(x)), torch.from_numpy(y))
        assert found.members["loss"][position] == pytest.approx(float(loss), rel=1e-4)
    unknown = worker.run(BlockTask(0, "evaluate", 1, (0,)), records(wanted)).members["loss"][0]
    assert abs(unknown - found.members["loss"][0]) > 1e-4


def test_frozen_statistics_do_not_move_and_are_used(data):
    wanted = wanted_for("freeze")
    result = Worker(wanted, data).run(train_task([0]), records(wanted))
    module, (x, y) = Network(wanted.model).module, data.train_arrays(0)
    train(module, x, y, plan(wanted, len(y), round=1, client=0), frozen=True)
    sent = result.each[0]["arrays"]
    close(sent, {n: t.detach() for n, t in module.state_dict().items()})
    before = records(wanted)["arrays"]
    assert all((sent[n] == before[n]).all() for n in sent if "running" in n)
    assert any((sent[n] != before[n]).any() for n in sent)
    assert result.memory == {}


def test_statistics_measured_anew_are_those_of_the_examples():
    """On one batch the first layer's statistics are the mean and variance of its input; of two batches, the mean."""
    network = Network(wanted_for("average").model)
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(2.0, 3.0, size=(20, *SHAPE)).astype(np.float32))
    momenta = [layer.momentum for layer in batch_norms(network.module).values()]
    inputs = []
    first = next(iter(batch_norms(network.module).values()))
    hook = first.register_forward_pre_hook(lambda layer, args: inputs.append(args[0]))
    recalibrate(network, x, batch_size=15)
    hook.remove()
    values = [h.detach().transpose(0, 1).flatten(1) for h in inputs]
    for found, measure in ((first.running_mean, "mean"), (first.running_var, "var")):
        each = [getattr(v, measure)(1) for v in values]
        torch.testing.assert_close(found, 0.75 * each[0] + 0.25 * each[1], rtol=1e-4, atol=1e-5)
    assert [layer.momentum for layer in batch_norms(network.module).values()] == momenta
    with pytest.raises(ValueError, match="two examples"):
        recalibrate(network, x[:1])
