"""The first layer in dual form against clients that have weights of their own, over random shapes and plans."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedmomentum.clients import dual as dual_form
from fedmomentum.clients import gram, network
from fedmomentum.clients.block import BlockTask
from fedmomentum.clients.worker import Worker

from .federation import SIZES, federation, records, spec, train_task

RULES = [
    {"name": "sgd", "lr": 0.1},
    {"name": "heavy_ball", "lr": 0.1, "momentum": 0.9},
    {"name": "heavy_ball", "lr": 0.1, "momentum": -0.5},
    {"name": "ema", "lr": 0.3, "momentum": 0.8},
]

WORK = st.one_of(
    st.fixed_dictionaries({"epochs": st.integers(1, 3)}), st.fixed_dictionaries({"steps": st.integers(1, 9)})
)
"""How long clients train."""

KEPT, MADE = 512.0, 0.0
"""MiB for inner products: enough for all, or for none, which then are made where they are needed."""


def everywhere(patch):
    """Let the dual form pay for every client."""
    patch.setattr(dual_form.Dual, "pays", lambda self, examples, passes: True)
    patch.setattr(gram, "KEPT_EXAMPLES", 1000)


@pytest.fixture
def always(monkeypatch):
    """Let every client train in dual form, and count the groups that do."""
    everywhere(monkeypatch)
    seen = []
    train = dual_form.Dual.train

    def counted(self, *args, **kwargs):
        end = train(self, *args, **kwargs)
        seen.append(end is not None)
        return end

    monkeypatch.setattr(dual_form.Dual, "train", counted)
    return seen


def both(wanted_of, data, task):
    """Give the result of a block in dual form, and that of the plain loop."""
    found = Worker(wanted_of("on"), data).run(task, records(wanted_of("on")))
    return found, Worker(wanted_of("off"), data).run(task, records(wanted_of("off")))


def agree(found, plain, tolerance=2e-6):
    assert found.failures == plain.failures == ()
    assert found.mean["arrays"].keys() == plain.mean["arrays"].keys()
    for name, x in plain.mean["arrays"].items():
        np.testing.assert_allclose(found.mean["arrays"][name], x, rtol=tolerance, atol=tolerance, err_msg=name)
        assert found.mean["arrays"][name].dtype == x.dtype
    agree_on_members(found, plain)


def agree_on_members(found, plain):
    for metric in ("train_loss", "steps", "lr", "num-examples"):
        a, b = (dict(zip(r.members["client"], r.members[metric], strict=True)) for r in (found, plain))
        assert a == pytest.approx(b, rel=1e-5)


def dense(hidden, *, bias):
    """Give a dense network for the images of the federation, with biases or without."""
    torch.manual_seed(1)
    layers = [nn.Flatten()]
    for before, after in pairwise([36, *hidden, 3]):
        layers += [nn.Linear(before, after, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    hidden=st.lists(st.integers(1, 9), max_size=3),
    bias=st.booleans(),
    kept=st.sampled_from([KEPT, MADE]),
    batch=st.integers(1, 12),
    work=WORK,
    rule=st.sampled_from(RULES),
    uniform=st.booleans(),
    partial=st.booleans(),
)
def test_equals_the_plain_loop(sizes, hidden, bias, kept, batch, work, rule, uniform, partial):
    data = federation(sizes)
    wanted = lambda vectorize: spec(  # noqa: E731
        options={"hidden": hidden},
        optimizer=rule,
        batch_size=batch,
        vectorize=vectorize,
        gram_memory=kept,
        **{"epochs": None, **work},
    )
    effort = tuple(0.5 if k % 2 else 1.0 for k in range(len(sizes))) if partial else None
    task = train_task(range(len(sizes)), reduce=True, uniform=uniform, effort=effort)
    with pytest.MonkeyPatch.context() as patch:
        everywhere(patch)
        patch.setattr(network, "build", lambda model: dense(hidden, bias=bias))
        agree(*both(wanted, data, task))


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("kept", [KEPT, MADE])
@pytest.mark.parametrize("hidden", [[], [8]])
def test_it_is_the_dual_form_that_agrees(always, epochs, kept, hidden):
    wanted = lambda v: spec(options={"hidden": hidden}, vectorize=v, epochs=epochs, gram_memory=kept)  # noqa: E731
    agree(*both(wanted, federation(), train_task(reduce=True)))
    assert always and all(always)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": {"name": "nesterov", "lr": 0.1, "momentum": 0.9}},
        {"optimizer": {"name": "heavy_ball", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}},
        {"optimizer": {"name": "adam", "lr": 0.01}},
        {"clip_norm": 0.1},
        {"keep_state": True},
        {"method": "fedprox", "method_options": {"mu": 0.1}},
        {"method": "fedexp"},
    ],
)
def test_leaves_other_training_alone(always, settings):
    wanted = spec(vectorize="on", **settings)
    Worker(wanted, federation()).run(train_task(reduce=True), records(wanted))
    assert not always


def test_single_models_are_sent_where_they_are_asked_for(always):
    wanted = spec(vectorize="on")
    result = Worker(wanted, federation()).run(train_task(reduce=False), records(wanted))
    assert len(result.each) == len(SIZES) and not always


@pytest.mark.parametrize("poison", range(3))
def test_a_client_with_bad_data_is_named_and_the_others_count(always, poison):
    wanted, sizes = spec(vectorize="on"), (9, 12, 10)
    bad = Worker(wanted, federation(sizes, poison=poison)).run(train_task(range(3), reduce=True), records(wanted))
    assert [(f.client, f.kind) for f in bad.failures] == [(poison, "rejected")]
    assert not all(always)
    others = [c for c in range(3) if c != poison]
    good = Worker(wanted, federation(sizes)).run(train_task(others, reduce=True), records(wanted))
    for name, x in good.mean["arrays"].items():
        np.testing.assert_allclose(bad.mean["arrays"][name], x, rtol=2e-6, atol=2e-6)


def test_the_choice_goes_by_the_width_of_the_layer_and_the_work_of_the_client(monkeypatch):
    used = []
    train = dual_form.Dual.train
    monkeypatch.setattr(
        dual_form.Dual, "train", lambda self, *a, **k: (used.append(len(a[2].steps)), train(self, *a, **k))[1]
    )
    sizes = (70, 33, 32, 10, 31)
    for units, epochs, groups in ((31, 1, []), (32, 1, [2, 1]), (32, 2, [3, 1])):
        used.clear()
        wanted = spec(options={"hidden": [units]}, vectorize="on", epochs=epochs, gram_memory=MADE)
        Worker(wanted, federation(sizes)).run(train_task(range(5), reduce=True), records(wanted))
        assert used == groups  # like sizes together: 10 would be given room for three times as many


def test_blocks_do_not_change_what_a_client_contributes(always):
    """Alone in a block or beside others: the mean of means is the mean."""
    wanted, data = spec(vectorize="on"), federation()
    together = Worker(wanted, data).run(train_task(reduce=True), records(wanted))
    alone = [
        Worker(wanted, data).run(BlockTask(index=0, kind="train", round=1, clients=(c,)), records(wanted))
        for c in range(len(SIZES))
    ]
    for name, x in together.mean["arrays"].items():
        each = np.stack([r.mean["arrays"][name].astype(np.float64) for r in alone])
        np.testing.assert_allclose(x, np.average(each, axis=0, weights=SIZES), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("epochs", [1, 4])
@pytest.mark.parametrize("kept", [KEPT, MADE])
def test_gradients_of_coefficients_are_checked_in_float64(always, epochs, kept):
    """In float64 the two forms agree to the last digits, so what differs in float32 is rounding and nothing else."""
    wanted, data = spec(vectorize="on", epochs=epochs, gram_memory=kept), federation()
    worker = Worker(wanted, data)
    worker.network.module.double()
    worker.examples._x = worker.examples._x.double()
    plain = Worker(spec(vectorize="off", epochs=epochs), data)
    plain.network.module.double()
    plain.examples._x = plain.examples._x.double()
    sent = {"arrays": {n: a.astype(np.float64) for n, a in records(wanted)["arrays"].items()}}
    found, expected = (w.run(train_task(reduce=True), sent) for w in (worker, plain))
    assert always == [True] * len(always) and always
    for name, x in expected.mean["arrays"].items():
        assert torch.allclose(torch.from_numpy(found.mean["arrays"][name]), torch.from_numpy(x), rtol=1e-11, atol=1e-13)
