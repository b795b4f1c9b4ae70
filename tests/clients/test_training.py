"""Local training against a plain torch loop, stacked against one by one, and what becomes of clients that fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedmomentum.clients.batches import plan
from fedmomentum.clients.block import BlockTask
from fedmomentum.clients.network import Network
from fedmomentum.clients.worker import Worker

from .federation import SIZES, federation, records, spec, train_task

RULES = {
    "sgd": {"name": "sgd", "lr": 0.1},
    "heavy_ball": {"name": "heavy_ball", "lr": 0.1, "momentum": 0.9},
    "decay": {"name": "heavy_ball", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "nesterov": {"name": "nesterov", "lr": 0.1, "momentum": 0.8},
    "ema": {"name": "ema", "lr": 0.3, "momentum": 0.9},
    "adam": {"name": "adam", "lr": 0.01},
    "adamw": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1},
}
TORCH = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "heavy_ball": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def reference(wanted, data, client, make, *, round=1, epochs_effort=1.0):
    """A plain torch loop over the same batches, sharing no code with the trainers."""
    network = Network(wanted.model)
    module, optimizer = network.module, make(network.module.parameters())
    x, y = data.train_arrays(client)
    for rows in plan(wanted, len(y), round=round, client=client, effort=epochs_effort):
        rows = rows[rows >= 0]
        optimizer.zero_grad()
        F.cross_entropy(module(torch.from_numpy(x[rows])), torch.from_numpy(y[rows])).backward()
        optimizer.step()
    return {n: t.detach().numpy().copy() for n, t in module.state_dict().items()}


def close(a, b, tolerance=2e-6):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("rule", TORCH)
@pytest.mark.parametrize("vectorize", ["on", "off"])
def test_training_equals_a_plain_torch_loop(rule, vectorize):
    data, wanted = federation(), spec(optimizer=RULES[rule], epochs=2, vectorize=vectorize)
    result = Worker(wanted, data).run(train_task(), records(wanted))
    assert result.failures == ()
    for client, trained in zip(result.members["client"], result.each, strict=True):
        close(trained["arrays"], reference(wanted, data, int(client), TORCH[rule]), 1e-5)


@pytest.mark.parametrize("model", ["cnn_small", "cnn_fedavgm", "resnet", "logistic"])
def test_every_model_trains_as_torch_does(model):
    shape = (1, 12, 12) if model != "cnn_fedavgm" else (1, 28, 28)
    sizes = (9, 5)
    data = federation(sizes, shape=shape)
    wanted = spec(model, shape=shape, options={}, optimizer=RULES["heavy_ball"] | {"lr": 0.01})
    result = Worker(wanted, data).run(train_task(range(2)), records(wanted))
    for client, trained in zip(result.members["client"], result.each, strict=True):
        make = lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)  # noqa: E731
        close(trained["arrays"], reference(wanted, data, int(client), make), 1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_stacked_equals_one_by_one(rule):
    data = federation()
    both = [
        Worker(spec(optimizer=RULES[rule], epochs=2, vectorize=v), data).run(train_task(), records(spec()))
        for v in ("on", "off")
    ]
    by_client = [dict(zip(r.members["client"], r.each, strict=True)) for r in both]
    for client in by_client[0]:
        close(by_client[0][client]["arrays"], by_client[1][client]["arrays"], 1e-5)
    losses = [dict(zip(r.members["client"], r.members["train_loss"], strict=True)) for r in both]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("vectorize", ["on", "off"])
def test_the_mean_of_a_block_is_the_weighted_mean_of_its_clients(vectorize):
    data, wanted = federation(), spec(vectorize=vectorize)
    worker = Worker(wanted, data)
    each = worker.run(train_task(), records(wanted))
    mean = worker.run(train_task(reduce=True), records(wanted))
    weights = np.array(each.members["num-examples"])
    assert sorted(weights) == sorted(SIZES)
    for name, found in mean.mean["arrays"].items():
        stacked = np.stack([trained["arrays"][name].astype(np.float64) for trained in each.each])
        np.testing.assert_allclose(found, np.average(stacked, axis=0, weights=weights), rtol=1e-6, atol=1e-7)
        assert found.dtype == np.float32


def test_a_result_depends_on_the_task_alone():
    data, wanted = federation(), spec()
    used = Worker(wanted, data)
    used.run(train_task([3, 4], round=9), records(wanted))
    again, fresh = used.run(train_task(), records(wanted)), Worker(wanted, data).run(train_task(), records(wanted))
    for a, b in zip(again.each, fresh.each, strict=True):
        for name in a["arrays"]:
            np.testing.assert_array_equal(a["arrays"][name], b["arrays"][name])


@pytest.mark.parametrize("vectorize", ["on", "off"])
@pytest.mark.parametrize("reduce", [True, False])
def test_a_client_with_bad_data_is_refused_by_name_and_the_others_count(vectorize, reduce):
    wanted = spec(vectorize=vectorize)
    bad = Worker(wanted, federation(poison=2)).run(train_task(reduce=reduce), records(wanted))
    assert [(f.client, f.kind) for f in bad.failures] == [(2, "rejected")]
    assert "NaN" in bad.failures[0].reason and "fc1.weight" in bad.failures[0].reason
    assert sorted(bad.members["client"]) == [0, 1, 3, 4, 5]
    if reduce:
        good = Worker(wanted, federation()).run(train_task([0, 1, 3, 4, 5], reduce=True), records(wanted))
        close(bad.mean["arrays"], good.mean["arrays"], 1e-6)


def test_a_client_without_data_fails_alone():
    wanted = spec()
    result = Worker(wanted, federation((5, 0, 4))).run(train_task(range(3)), records(wanted))
    assert [(f.client, f.reason) for f in result.failures] == [(1, "has no training examples")]


def test_code_that_raises_is_a_failure_of_its_client(monkeypatch):
    data, wanted = federation(), spec()
    worker = Worker(wanted, data)

    def raising(real):
        def read(clients, *plans):
            if 3 in clients:
                raise OSError("the disk of client 3 is gone")
            return real(clients, *plans)

        return read

    for name in ("block", "own"):
        monkeypatch.setattr(worker.examples, name, raising(getattr(worker.examples, name)))
    result = worker.run(train_task(reduce=True), records(wanted))
    assert [(f.client, f.kind) for f in result.failures] == [(3, "error")]
    assert "the disk of client 3" in result.failures[0].reason
    assert len(result.members["client"]) == 5


@pytest.mark.parametrize("vectorize", ["on", "off"])
@pytest.mark.parametrize("rule", ["heavy_ball", "adam"])
def test_kept_state_goes_on_where_it_stopped(vectorize, rule):
    """Two rounds of one epoch with kept state and an unmoved server equal torch going on with its optimizer."""
    data = federation()
    wanted = spec(optimizer=RULES[rule], keep_state=True, vectorize=vectorize)
    worker = Worker(wanted, data)
    first = worker.run(train_task([0]), records(wanted))
    second = worker.run(train_task([0], round=2, memory=first.memory), first.each[0])
    network = Network(wanted.model)
    optimizer = TORCH[rule](network.module.parameters())
    x, y = data.train_arrays(0)
    for server_round in (1, 2):
        for rows in plan(wanted, len(y), round=server_round, client=0):
            rows = rows[rows >= 0]
            optimizer.zero_grad()
            F.cross_entropy(network.module(torch.from_numpy(x[rows])), torch.from_numpy(y[rows])).backward()
            optimizer.step()
    close(second.each[0]["arrays"], {n: t.detach().numpy() for n, t in network.module.state_dict().items()}, 1e-5)
    reset = Worker(spec(optimizer=RULES[rule], vectorize=vectorize), data)
    assert reset.run(train_task([0]), records(wanted)).memory == {}


@pytest.mark.parametrize("vectorize", ["on", "off"])
def test_partial_work(vectorize):
    data, wanted = federation(), spec(vectorize=vectorize)
    result = Worker(wanted, data).run(train_task([0, 3], effort=(0.5, 1.0)), records(wanted))
    found = dict(zip(result.members["client"], result.each, strict=True))
    assert dict(zip(result.members["client"], result.members["steps"], strict=True)) == {0: 4.0, 3: 2.0}
    close(found[0]["arrays"], reference(wanted, data, 0, TORCH["heavy_ball"], epochs_effort=0.5), 1e-5)


@pytest.mark.parametrize("vectorize", ["on", "off"])
def test_learning_rate_schedule_over_rounds(vectorize):
    data = federation()
    wanted = spec(lr_schedule=lambda done: 0.5**done, vectorize=vectorize)
    result = Worker(wanted, data).run(train_task([0], round=3), records(wanted))
    make = lambda p: torch.optim.SGD(p, lr=0.1 * 0.25, momentum=0.9)  # noqa: E731
    close(result.each[0]["arrays"], reference(wanted, data, 0, make, round=3), 1e-5)


@pytest.mark.parametrize("vectorize", ["on", "off"])
@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_fedprox_adds_its_term_to_the_loss(vectorize, mu):
    """Against a torch loop whose loss holds mu/2 |y - x|^2 itself."""
    data, wanted = federation(), spec(vectorize=vectorize, method="fedprox", method_options={"mu": mu}, epochs=2)
    result = Worker(wanted, data).run(train_task([0, 3]), records(wanted))
    for client, trained in zip(result.members["client"], result.each, strict=True):
        network = Network(wanted.model)
        start = [p.detach().clone() for p in network.module.parameters()]
        optimizer = torch.optim.SGD(network.module.parameters(), lr=0.1, momentum=0.9)
        x, y = data.train_arrays(int(client))
        for rows in plan(wanted, len(y), round=1, client=int(client)):
            rows = rows[rows >= 0]
            optimizer.zero_grad()
            away = sum(((p - q) ** 2).sum() for p, q in zip(network.module.parameters(), start, strict=True))
            loss = F.cross_entropy(network.module(torch.from_numpy(x[rows])), torch.from_numpy(y[rows])) + mu / 2 * away
            loss.backward()
            optimizer.step()
        close(trained["arrays"], {n: t.detach().numpy() for n, t in network.module.state_dict().items()}, 1e-5)


def test_evaluation_of_clients():
    data, wanted = federation(validation=0.25), spec()
    result = Worker(wanted, data).run(BlockTask(0, "evaluate", 1, (0, 2)), records(wanted))
    network = Network(wanted.model)
    for position, client in enumerate((0, 2)):
        x, y = data.validation_arrays(client)
        logits = network.module(torch.from_numpy(x))
        assert result.members["num-examples"][position] == len(y)
        assert result.members["loss"][position] == pytest.approx(
            float(F.cross_entropy(logits, torch.from_numpy(y))), rel=1e-5
        )
        assert result.members["accuracy"][position] == pytest.approx(float((logits.argmax(1).numpy() == y).mean()))


def test_a_model_of_another_layout_is_refused_by_name():
    data, wanted = federation(), spec()
    sent = records(wanted)
    del sent["arrays"]["fc2.bias"]
    with pytest.raises(KeyError, match=r"fc2\.bias"):
        Worker(wanted, data).run(train_task(), sent)


def test_random_layers_are_seeded_by_round_and_client():
    data = federation()
    wanted = spec("tests.clients.noisy:dropout_network", options={})
    assert Worker(wanted, data).stacked is False
    first, second = (Worker(wanted, data).run(train_task(order), records(wanted)) for order in ([0, 1, 2], [2, 0, 1]))
    one, two = (dict(zip(r.members["client"], r.each, strict=True)) for r in (first, second))
    for client in one:
        for name in one[client]["arrays"]:
            np.testing.assert_array_equal(one[client]["arrays"][name], two[client]["arrays"][name])


def test_a_network_that_gave_its_memory_back_is_itself_when_a_model_is_loaded():
    network = Network(spec("cnn_small", shape=(1, 12, 12)).model)
    before = {name: x.clone() for name, x in network.tree().items()}
    network.release()
    assert network.released
    assert all(x.untyped_storage().nbytes() == 0 for x in network.tree().values())
    network.load(before)
    assert not network.released
    for name, x in network.tree().items():
        assert torch.equal(x, before[name])
        assert x.stride() == network.tree()[name].stride()
