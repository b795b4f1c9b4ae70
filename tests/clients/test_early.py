"""Stepping while the gradients come gives the bits of stepping when all are there, and the gradients are never there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedmomentum.clients.early import Early
from fedmomentum.clients.fused import FusedSGD
from fedmomentum.clients.methods import LOCAL_UPDATES, make_local
from fedmomentum.clients.network import Network
from fedmomentum.clients.spec import ClientSpec, ModelSpec
from fedmomentum.clients.worker import Worker
from fedmomentum.optim import make_rule
from fedmomentum.optim.registry import RULES
from fedmomentum.streams import stream
from tests.clients.federation import federation, records, train_task

SHAPE, SIZES = (6,), (11, 3, 8)
HYPER = {
    "sgd": {"lr": 0.1, "weight_decay": 0.1, "decay": "decoupled"},
    "heavy_ball": {"lr": 0.1, "dampening": 0.3},
    "pid": {"lr": 0.05, "integral": 0.1, "derivative": 0.2},
    "adam": {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1},
}
METHODS = {
    "fedprox": {"mu": 0.3},
    "scaffold": {},
    "feddyn": {"alpha": 0.2},
    "fedcm": {"alpha": 0.4},
    "fedadc": {"local_momentum": 0.5},
    "domo": {"spread": True},
    "fedexp": {},
    "fednova": {},
    "fednag": {},
    "fedsghmc": {},
}


class Tied(nn.Module):
    """Layers that share weights, a norm with buffers, and a parameter that takes no part."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(6, width), nn.Linear(width, width), nn.BatchNorm1d(width)
        self.third, self.last = nn.Linear(width, width), nn.Linear(width, classes)
        self.third.weight = self.second.weight
        self.idle, self.count = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(width))

    def forward(self, x):
        x = torch.tanh(self.norm(self.second(torch.relu(self.first(x)))))
        return self.last(torch.tanh(self.third(x)) * self.count)


def tied(*, input_shape, classes, width):
    return Tied(width, classes)


def trained(wanted: ClientSpec, *, early: bool, extra=()):
    """Give what two rounds' clients send and keep; a worker whose loop is watched does not step early."""
    worker = Worker(wanted, federation(SIZES, shape=SHAPE))
    worker._loop.watch = None if early else Watch()
    sent = records(wanted)
    for name in extra:
        rng = stream(1, name)
        sent[name] = {
            n: rng.normal(0, 0.1, p.shape).astype(np.float32) for n, p in Network(wanted.model).params.items()
        }
    memory, found = {}, []
    for number in (1, 2):
        task = replace(train_task(range(3), reduce=True, fold=True, memory=memory), round=number)
        result = worker.run(task, sent)
        assert not result.failures
        memory = {client: {slot: dict(tree) for slot, tree in state.items()} for client, state in result.memory.items()}
        found.append((result.sums, result.members, memory))
    return found


class Watch:
    def step(self, client, step, steps):
        pass

    def end(self, client):
        pass


def same(one, other):
    assert one.keys() == other.keys()
    for name, x in one.items():
        if isinstance(x, dict):
            same(x, other[name])
        else:
            np.testing.assert_array_equal(x, other[name], err_msg=str(name))


def check(wanted: ClientSpec, extra=()):
    for early, late in zip(*(trained(wanted, early=e, extra=extra) for e in (True, False)), strict=True):
        for one, other in zip(early, late, strict=True):
            same(one, other)


def wanted(rule="heavy_ball", method="local_sgd", width=5, seed=0, **settings):
    lr = {"adam": 0.01, "adamw": 0.01, "yogi": 0.01, "lion": 0.01}.get(rule, 0.1)
    return ClientSpec(
        model=ModelSpec(f"{__name__}:tied", SHAPE, 3, seed, {"width": width}),
        optimizer={"name": rule, **HYPER.get(rule, {"lr": lr})},
        method=method,
        method_options=METHODS.get(method, {}),
        batch_size=4,
        epochs=2,
        seed=seed,
        **settings,
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("keep", [False, True])
def test_every_rule(rule, keep):
    check(wanted(rule, keep_state=keep, width=3 + len(rule), seed=len(rule)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rule", ["heavy_ball", "ema"])
def test_every_method_that_works_tensor_by_tensor(method, rule):
    if (method, rule) == ("fednova", "ema"):
        rule = "sgd"
    check(wanted(rule, method), extra=("control", "momentum"))


def test_the_list_of_methods_is_whole():
    rule = make_rule("heavy_ball", lr=0.1)
    needs = {"fald", "fsgld", "dglmc", "qlsd", "fedpa"}  # samplers have rules and options of their own
    known = {n for n in LOCAL_UPDATES if n not in needs and make_local(n, rule, **METHODS.get(n, {})).by_tensor}
    assert known == {*METHODS, "local_sgd"}


def test_a_norm_of_all_gradients_is_one_of_all_gradients():
    """A clipped client takes the plain way, with or without a watch; what it sends is what a plain loop gives."""
    settings = wanted("adam", clip_norm=0.01)
    check(settings)
    clipped, free = (trained(s, early=True)[0][0]["arrays"] for s in (settings, wanted("adam")))
    assert any(not np.array_equal(clipped[n], free[n]) for n in clipped)


@pytest.mark.parametrize(("rule", "steps"), [("nesterov", FusedSGD), ("adam", Early)])
def test_no_two_gradients_are_there_at_once(monkeypatch, rule, steps):
    worker, there = Worker(wanted(rule), federation(SIZES, shape=SHAPE)), []
    step = steps._step

    def look(self, position):
        there.append(sum(p.grad is not None for p in worker.network.params.values()))
        step(self, position)

    monkeypatch.setattr(steps, "_step", look)
    result = worker.run(train_task(range(3), reduce=True, fold=True), records(worker.spec))
    assert not result.failures
    assert set(there) == {1}


def test_the_model_of_a_round_is_copied_once_a_client_and_must_fit(monkeypatch):
    worker, copied = Worker(wanted("sgd"), federation(SIZES, shape=SHAPE)), []
    sent = records(worker.spec)
    copy = Network.copy
    monkeypatch.setattr(Network, "copy", lambda self, tree: copied.append(copy(self, tree)))
    task = train_task(range(3), reduce=True, fold=True)
    result = worker.run(task, sent)
    assert not result.failures
    assert len(copied) == 3
    sent["arrays"]["idle"] = np.ones(4, np.float32)
    with pytest.raises(ValueError, match="'idle' has shape"):
        worker.run(task, sent)
