"""Compiled code against the plain loop, over random shapes and plans, for every width of vectors that is here."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedmomentum.clients import library as compiled
from fedmomentum.clients import methods, native, network
from fedmomentum.clients.dense import read_layers
from fedmomentum.clients.fused import HeavyBall
from fedmomentum.clients.local import Drift, LocalUpdate, drifting
from fedmomentum.clients.network import Network
from fedmomentum.clients.worker import Worker
from fedmomentum.data import Dataset, FederatedData, Partition
from fedmomentum.errors import UserError

from .federation import SIZES, federation, records, spec, train_task
from .test_dual import RULES, WORK, agree, agree_on_members

if not compiled.available() and not any(map(shutil.which, ("cc", "gcc", "clang"))):
    pytest.skip("the package was installed without a C compiler", allow_module_level=True)

LANES = [lanes for lanes in (4, 8, 16) if lanes <= compiled.library().native_lanes()]


BALL = {"name": "heavy_ball", "lr": 0.1, "momentum": 0.9}
STEPS = [
    *RULES,
    {"name": "sgd", "lr": 0.1, "weight_decay": 0.2},
    BALL | {"weight_decay": 0.2},
    {"name": "ema", "lr": 0.3, "momentum": 0.8, "weight_decay": 0.2},
    {"name": "nesterov", "lr": 0.1, "momentum": 0.7},
    {"name": "nesterov", "lr": 0.1, "momentum": 0.7, "weight_decay": 0.2},
]


class _Narrow:
    """The library on a processor whose vectors have so many floats."""

    def __init__(self, lanes):
        self.native_train, self.native_lanes = compiled.library().native_train, lambda: lanes


def everywhere(patch):
    """Let every dense network train in compiled code; note whether it could."""
    seen, run = [], native.Native._run

    def noted(self, *args, **kwargs):
        found = run(self, *args, **kwargs)
        seen.append(found is not None)
        return found

    patch.setattr(native.Native, "_run", noted)
    patch.setattr(native.Native, "pays", lambda self, batch: True)
    return seen


@pytest.fixture
def always(monkeypatch):
    return everywhere(monkeypatch)


def both(wanted_of, data, task):
    """Give the result of a block in compiled code, and that of the plain loop."""
    ways = (wanted_of(vectorize="on", native=True), wanted_of(vectorize="off"))
    return [Worker(wanted, data).run(task, records(wanted)) for wanted in ways]


def agree_on_each(found, plain, tolerance=2e-6):
    """Say that two results have the same models, client by client."""
    assert found.failures == plain.failures == ()
    theirs = dict(zip(plain.members["client"], plain.each, strict=True))
    for client, ours in zip(found.members["client"], found.each, strict=True):
        for name, x in theirs[client]["arrays"].items():
            np.testing.assert_allclose(ours["arrays"][name], x, rtol=tolerance, atol=tolerance, err_msg=name)
    agree_on_members(found, plain)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    hidden=st.lists(st.integers(1, 23), max_size=3),
    classes=st.integers(2, 12),
    bias=st.booleans(),
    shape=st.sampled_from([(1, 4, 4), (3, 1, 1), (2, 5, 7), (1, 12, 12)]),
    batch=st.integers(1, 21),
    work=WORK,
    rule=st.sampled_from(STEPS),
    uniform=st.booleans(),
    late=st.booleans(),
    each=st.booleans(),
    lanes=st.sampled_from(LANES),
)
def test_equals_the_plain_loop(sizes, hidden, classes, bias, shape, batch, work, rule, uniform, late, each, lanes):
    def wanted_of(**options):
        return spec(
            **{"shape": shape, "classes": classes, "options": {"hidden": hidden}, "optimizer": rule},
            **{"batch_size": batch, "epochs": None, **work, **options},
        )

    def build(model):
        torch.manual_seed(1)
        layers = [nn.Flatten()]
        for before, after in pairwise([int(np.prod(shape)), *hidden, classes]):
            layers += [nn.Linear(before, after, bias=bias), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    effort = tuple(0.4 if k % 2 else 1.0 for k in range(len(sizes))) if late else None
    task = train_task(range(len(sizes)), uniform=uniform, reduce=not each, effort=effort)
    with pytest.MonkeyPatch.context() as patch:
        seen = everywhere(patch)
        patch.setattr(network, "build", build)
        patch.setattr(native, "library", lambda: _Narrow(lanes))
        found, plain = both(wanted_of, federation(sizes, shape=shape, classes=classes), task)
    assert seen == [True]
    (agree_on_each if each else agree)(found, plain)


@pytest.mark.parametrize("hidden", [[], [40]])
def test_far_outputs_have_the_right_loss(always, hidden):
    """Where probabilities underflow: e^x is cut off at 1e-38, and no loss is."""
    data = federation()
    data.x[:] *= 900.0
    wanted_of = partial(spec, options={"hidden": hidden}, optimizer={"name": "sgd", "lr": 1e-6}, steps=3, epochs=None)
    found, plain = both(wanted_of, data, train_task(reduce=True))
    assert max(plain.members["train_loss"]) > 90.0 and all(always)
    agree(found, plain, 1e-5)


def test_layers_without_a_relu_between(always, monkeypatch):
    layers = [nn.Linear(36, 9), nn.Linear(9, 21), nn.ReLU(), nn.Linear(21, 3)]

    def build(model):
        torch.manual_seed(1)
        for layer in layers:
            getattr(layer, "reset_parameters", list)()
        return nn.Sequential(nn.Flatten(), *layers)

    monkeypatch.setattr(network, "build", build)
    wanted_of = partial(spec, optimizer={"name": "heavy_ball", "lr": 0.02, "momentum": 0.5})
    agree(*both(wanted_of, federation(), train_task(reduce=True)))
    assert always == [True]


def test_a_last_step_out_of_all_numbers_is_seen(always):
    """Its loss, before the step, was finite."""
    wanted = spec(vectorize="on", native=True, optimizer={"name": "sgd", "lr": 3e38}, steps=1, epochs=None)
    data = federation()
    data.x[:] *= 100.0
    result = Worker(wanted, data).run(train_task(reduce=True), records(wanted))
    assert always[0] is False and len(result.failures) == len(SIZES)


@pytest.mark.parametrize("rule", [BALL, {"name": "nesterov", "lr": 0.05, "momentum": 0.7, "weight_decay": 0.2}])
def test_velocities_live_on(always, rule):
    """Round after round from where its velocity was, as the plain loop."""
    data, wanted_of = federation(), partial(spec, keep_state=True, optimizer=rule, epochs=2)
    ways = [wanted_of(vectorize="on", native=True), wanted_of(vectorize="off")]
    workers, memory = [Worker(wanted, data) for wanted in ways], [{}, {}]
    for number in (1, 2, 3):
        results = []
        for k, (worker, wanted) in enumerate(zip(workers, ways, strict=True)):
            results.append(worker.run(train_task(round=number, memory=memory[k]), records(wanted)))
            memory[k] = results[-1].memory
        agree_on_each(*results, tolerance=1e-5)
    for client, state in memory[1].items():
        for name, v in state["rule/velocity"].items():
            torch.testing.assert_close(memory[0][client]["rule/velocity"][name], v, rtol=1e-5, atol=1e-6)
    assert always == [True] * 3


@settings(max_examples=40, deadline=None)
@given(
    scale=st.sampled_from([1.0, 0.3]),
    pull=st.sampled_from([0.0, 0.7]),
    shifted=st.booleans(),
    rule=st.sampled_from([rule for rule in STEPS if rule["name"] != "ema"]),
    hidden=st.sampled_from([[], [7], [5, 18]]),
    lanes=st.sampled_from(LANES),
)
def test_drifts_are_those_of_the_plain_loop(scale, pull, shifted, rule, hidden, lanes):
    """Any ``scale g + pull (y - x) + shift``, the shift another one for each client."""
    torch.manual_seed(0)

    def method(rule):
        def drift(place):
            return Drift(scale, pull, {n: x * x for n, x in place.memory["own"].items()} if shifted else None)

        finish = lambda params, state, place: ({}, {"own": place.memory["own"]})  # noqa: E731
        return LocalUpdate(rule, finish=finish, remember=lambda params: {"own": params}, **drifting(drift))

    wanted_of = partial(spec, options={"hidden": hidden}, optimizer=rule, epochs=2, method="of this test")
    like = Network(wanted_of().model).tree()
    memory = {k: {"own": {n: torch.randn_like(x) for n, x in like.items()}} for k in range(len(SIZES))}
    with pytest.MonkeyPatch.context() as patch:
        seen = everywhere(patch)
        patch.setattr(methods, "LOCAL_UPDATES", {"of this test": method})
        patch.setattr(native, "library", lambda: _Narrow(lanes))
        agree_on_each(*both(wanted_of, federation(), train_task(memory=memory)), tolerance=1e-5)
    assert seen == [True]


@pytest.mark.parametrize(
    ("settings", "task"),
    [
        ({"optimizer": BALL | {"dampening": 0.1}}, {}),
        ({"optimizer": BALL | {"weight_decay": 0.1, "decay": "decoupled"}}, {}),
        ({"optimizer": {"name": "ema", "lr": 0.1}, "keep_state": True}, {}),
        ({"optimizer": {"name": "adam", "lr": 0.01}}, {}),
        ({"clip_norm": 0.1}, {}),
        ({"method": "mimelite"}, {"reduce": False}),
        ({"native": False}, {}),
    ],
)
def test_leaves_other_training_alone(always, settings, task):
    wanted = spec(vectorize="on", **{"native": True, **settings})
    Worker(wanted, federation()).run(train_task(**{"reduce": True, **task}), records(wanted))
    assert not always


@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("poison", range(3))
def test_a_client_with_bad_data_is_named_and_the_others_count(always, poison, reduce):
    wanted, sizes = spec(vectorize="on", native=True), (9, 12, 10)
    task = train_task(range(3), reduce=reduce)
    bad = Worker(wanted, federation(sizes, poison=poison)).run(task, records(wanted))
    assert [(f.client, f.kind) for f in bad.failures] == [(poison, "rejected")]
    good = Worker(wanted, federation(sizes)).run(
        train_task([c for c in range(3) if c != poison], reduce=reduce), records(wanted)
    )
    for ours, theirs in zip(bad.each or [bad.mean], good.each or [good.mean], strict=True):
        for name, x in theirs["arrays"].items():
            np.testing.assert_allclose(ours["arrays"][name], x, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("label", "place"), [(3, 4), (-1, 4), (2**40, 4), (3, 0)])
def test_a_label_that_is_no_class_is_never_looked_up(always, label, place):
    data, wanted = federation((9, 12, 10)), spec(vectorize="on", native=True)
    data.y[9 + place] = label
    result = Worker(wanted, data).run(train_task(range(3), reduce=True), records(wanted))
    assert [f.client for f in result.failures] == [1] and not any(always)


@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("reduce", [True, False])
def test_examples_in_any_order_of_the_data_set(always, reduce, kind):
    """As where nothing has put them into the order of clients, whose indices are of any kind."""
    data, wanted_of = federation(), partial(spec, epochs=2)
    order = np.random.default_rng(0).permutation(sum(SIZES)).astype(kind)
    data = FederatedData.build(
        Dataset(name="test", x=data.x, y=data.y, test_x=data.x, test_y=data.y, classes=3),
        Partition(order, np.concatenate([[0], np.cumsum(SIZES)])),
    )
    found, plain = both(wanted_of, data, train_task(reduce=reduce))
    (agree if reduce else agree_on_each)(found, plain)
    assert always == [True]


def test_numbers_of_another_kind_never_reach_compiled_code():
    x, y = torch.zeros(4, 4), torch.zeros(4, dtype=torch.int64)
    anchor = {"1.weight": torch.zeros(2, 4), "1.bias": torch.zeros(2)}
    starts, shares, rows = np.zeros(1, np.int64), torch.ones(1, dtype=torch.float64), [np.arange(4)[None]]
    step = native.Step.of(HeavyBall(0.9), 0.1)
    fine = native.Batches.of(x, y, starts, shares).with_plans(rows)
    assert in_c([4, 2]).mean(anchor, fine, step) is not None
    for change in (
        {"x_RD": x.double()},
        {"x_RD": torch.zeros(4, 8)[:, ::2]},
        {"y_R": y.int()},
        {"starts_K": starts.astype(np.int32)},
        {"rows_KSB": fine.rows_KSB.astype(np.int32)},
        {"share_K": fine.share_K.astype(np.float32)},
    ):
        with pytest.raises(TypeError, match="compiled code reads"):
            in_c([4, 2]).mean(anchor, replace(fine, **change), step)


def test_bits_of_a_client_do_not_depend_on_the_others(always):
    wanted, data = spec(vectorize="on", native=True, shape=(1, 7, 7)), federation(shape=(1, 7, 7))
    worker, sent = Worker(wanted, data), records(wanted)
    for reduce in (True, False):
        together = worker.run(train_task(reduce=False), sent)
        for client, record in zip(together.members["client"], together.each, strict=True):
            alone = Worker(wanted, data).run(train_task([client], reduce=reduce), sent)
            for name, x in record["arrays"].items():
                ours = (alone.mean if reduce else alone.each[0])["arrays"][name]
                if reduce:  # x + 1.0 (w - x) may round once more than w
                    np.testing.assert_allclose(ours, x, rtol=0, atol=1e-7)
                else:
                    np.testing.assert_array_equal(ours, x)


def in_c(widths, **options):
    module = nn.Sequential(nn.Flatten(), *[nn.Linear(a, b) for a, b in pairwise(widths)])
    return native.native(spec(**{"native": True, **options}), module, read_layers(module))


def test_the_choice_goes_by_the_size_of_the_network_and_of_a_batch():
    small, middle, large = (in_c(widths) for widths in ([784, 10], [784, 200, 10], [784, 400, 10]))
    assert small.pays(1) and middle.pays(20) and not middle.pays(1)
    assert not large.pays(20) and not large.pays(1000) and large.least_batch is None
    assert middle.pays(middle.least_batch) and not middle.pays(middle.least_batch - 1)


def test_other_networks_and_machines_are_left_alone():
    assert in_c([4, 2], native=False) is None and in_c([4, 2], device="cuda") is None
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert native.native(spec(native=True), module.double(), read_layers(module)) is None
    assert native.native(spec(native=True), nn.Sequential(nn.Tanh()), None) is None


def test_inputs_that_are_no_floats_of_32_bits_are_left_alone(always):
    data, wanted = federation(), spec(vectorize="on", native=True)
    data = replace(data, x=data.x.astype(np.float64))
    worker = Worker(wanted, data)
    assert worker._stack._native is None


@pytest.mark.parametrize("kind", [np.int32, np.uint8])
def test_labels_that_are_no_integers_of_64_bits_are_left_alone(always, kind):
    data = federation()
    worker = Worker(spec(vectorize="on", native=True), replace(data, y=data.y.astype(kind)))
    assert worker._stack._native is None


@pytest.mark.parametrize("widths", [[(30, 3)], [(49, 3)], [(36, 8), (9, 3)], [(36, 8), (7, 3)]])
def test_a_network_that_does_not_fit_is_told_by_torch(always, widths, monkeypatch):
    """In C such layers and examples would be read from where other numbers lie."""
    monkeypatch.setattr(network, "build", lambda model: nn.Sequential(nn.Flatten(), *[nn.Linear(*w) for w in widths]))
    wanted = spec(vectorize="on", native=True)
    result = Worker(wanted, federation()).run(train_task(reduce=True), records(wanted))
    assert not always and len(result.failures) == len(SIZES)
    assert "shapes cannot be multiplied" in result.failures[0].reason


def test_shifts_in_float64_are_read_as_numbers(always):
    """As a server may send them that adds up in float64."""
    wanted, sent = spec(vectorize="on", native=True, method="scaffold"), {}
    for kind in (np.float32, np.float64):
        given = records(wanted)
        given["control"] = {name: np.full(x.shape, 0.25, kind) for name, x in given["arrays"].items()}
        sent[kind] = Worker(wanted, federation()).run(train_task(), given).each
    assert always == [True, True]
    for ours, theirs in zip(*sent.values(), strict=True):
        for name, x in ours["arrays"].items():
            np.testing.assert_array_equal(theirs["arrays"][name], x)


def test_a_worker_without_it_refuses_what_was_begun_with_it(monkeypatch):
    monkeypatch.setattr(compiled, "available", lambda: False)
    with pytest.raises(UserError, match=r"engine\.native: .* use engine\.native: false"):
        Worker(spec(native=True), federation())
    Worker(spec(native=False), federation())


def test_a_library_of_another_version_is_not_used(monkeypatch):
    compiled.library.cache_clear()
    monkeypatch.setattr(compiled, "VERSION", compiled.VERSION + 1)
    assert not compiled.available()
    compiled.library.cache_clear()
    monkeypatch.undo()
    assert compiled.available()
