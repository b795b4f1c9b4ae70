"""Written-out gradients of convolutional networks against autograd, and what they must not touch or mix up."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedmomentum.clients import convolved as subject
from fedmomentum.clients.collect import to_records
from fedmomentum.clients.convolved import Convolved, read_blocks
from fedmomentum.clients.examples import Examples
from fedmomentum.clients.local import local_sgd
from fedmomentum.clients.looped import LoopedTrainer
from fedmomentum.clients.network import Network
from fedmomentum.clients.worker import Worker
from fedmomentum.models import build
from fedmomentum.models.objective import losses
from fedmomentum.optim import Rule

from .federation import federation, records, spec, train_task


@pytest.fixture(autouse=True)
def _small_layers_too(request, monkeypatch):
    """Where it pays is no matter here, except to the test of the rule itself."""
    if request.node.originalname != "test_the_recorded_rule":
        monkeypatch.setattr(subject, "LEAST_CHANNELS", 1)
        monkeypatch.setattr(subject, "_uses_patches", lambda kernel, channels, outputs: channels < 4)


def by_autograd(module, x, y):
    loss = losses(module(x), y).mean()
    params = dict(module.named_parameters())
    return loss.detach(), dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))


def written_out(module, *batches):
    """Give loss and gradients of the last batch; those before leave their numbers in the buffers."""
    module = deepcopy(module).to(memory_format=torch.channels_last)
    params = dict(module.named_parameters())
    convolved = Convolved(read_blocks(module, params), params)
    for x, y in batches:
        loss = convolved.gradient(x, y)
    return loss, {n: p.grad for n, p in params.items()}


def assert_equal(found, expected, rtol):
    torch.testing.assert_close(found[0], expected[0], rtol=rtol, atol=rtol)
    for name, g in expected[1].items():
        torch.testing.assert_close(found[1][name], g, rtol=0, atol=rtol * float(g.abs().max() + 1e-3), msg=name)


@st.composite
def networks(draw):
    """Draw a network with everything that is covered: odd sizes, borders that pools drop, and rectangles."""
    channels, size = draw(st.integers(1, 4)), [draw(st.integers(9, 17)), draw(st.integers(9, 17))]
    shape, layers = (channels, *size), []
    for depth in range(draw(st.integers(1, 3))):
        patches = depth == 0 and channels < 4
        kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5))) if patches else (3, 3)
        stride = draw(st.integers(1, 2)) if patches else 1
        padding = draw(st.integers(0, min(kernel) - 1))
        after = [(n + 2 * padding - k) // stride + 1 for n, k in zip(size, kernel, strict=True)]
        pool = draw(st.integers(1, 3))
        if min(after) < 1:
            break
        outputs = draw(st.integers(1, 6))
        block = [nn.Conv2d(channels, outputs, kernel, stride, padding, bias=draw(st.booleans()))]
        block += [nn.ReLU()] * draw(st.integers(0, 1))
        if min(after) >= pool > 1:
            step = draw(st.integers(1, 3))
            block.insert(draw(st.integers(1, len(block))), nn.MaxPool2d(pool, step))
            after = [(n - pool) // step + 1 for n in after]
        layers, channels, size = [*layers, *block], outputs, after
    width = draw(st.integers(1, 5))
    head = [nn.Linear(channels * size[0] * size[1], width), nn.ReLU(), nn.Linear(width, 3, bias=draw(st.booleans()))]
    return shape, nn.Sequential(nn.Sequential(*layers), nn.Flatten(), *head).double()


@settings(max_examples=60, deadline=None)
@given(
    network=networks(),
    batches=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    numbers=st.booleans(),
)
def test_equals_autograd(network, batches, seed, numbers):
    shape, module = network
    torch.manual_seed(seed)
    data = [(torch.randn(n, *shape, dtype=torch.float64), torch.randint(0, 3, (n,))) for n in batches]
    if numbers:
        data = [(x, torch.randn(len(y), 3, dtype=torch.float64)) for x, y in data]
    assert_equal(written_out(module, *data), by_autograd(module, *data[-1]), 1e-11)


@pytest.mark.parametrize(("shape", "options"), [((1, 28, 28), {}), ((3, 19, 24), {"padding": 1})])
def test_rounds_as_little_as_autograd_does(shape, options):
    """In float32 both are off from the gradient in float64 by a few units in the last place."""
    module = build("cnn_small", input_shape=shape, classes=10, seed=0, **options)
    torch.manual_seed(0)
    x, y = torch.randn(20, *shape), torch.randint(0, 10, (20,))
    exact = by_autograd(deepcopy(module).double(), x.double(), y)[1]
    off = [
        max(float((g - exact[n]).norm() / exact[n].norm()) for n, g in gradients.items())
        for gradients in (written_out(module, (x, y))[1], by_autograd(module, x, y)[1])
    ]
    assert off[0] < 3 * off[1] < 1e-5


def test_the_first_of_equal_outputs_takes_all_of_the_gradient_as_in_torch():
    """Small integers: half of the windows have several largest outputs, and every sum is exact."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 3)).double()
    with torch.no_grad():
        module[0].weight.copy_(torch.randint(-1, 2, module[0].weight.shape))
    x, y = torch.randint(0, 2, (6, 1, 9, 9)).double(), torch.randint(0, 3, (6,))
    assert_equal(written_out(module, (x, y)), by_autograd(module, x, y), 1e-13)


def conv(*arguments, **options):
    return nn.Sequential(nn.Conv2d(*arguments, **options), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))


class Own(nn.Conv2d):
    """A user's layer may compute anything."""


SHARED = nn.Conv2d(1, 1, 3, padding=1)


@pytest.mark.parametrize(
    "module",
    [
        conv(2, 2, 3, groups=2),
        conv(2, 2, 3, dilation=2),
        conv(2, 2, 3, padding=1, padding_mode="reflect"),
        conv(2, 2, 3, padding="same"),
        conv(2, 2, 3, stride=(1, 2)),
        conv(64, 2, 5),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 5), nn.Flatten(), nn.LazyLinear(3)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, stride=2), nn.Flatten(), nn.LazyLinear(3)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d((3, 2)), nn.Flatten(), nn.LazyLinear(3)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, dilation=2), nn.Flatten(), nn.LazyLinear(3)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, padding=1), nn.Flatten(), nn.LazyLinear(3)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(), nn.LazyLinear(3)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(3)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(3)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(3)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(), nn.Flatten(), nn.LazyLinear(3)),
        nn.Sequential(nn.Conv2d(1, 2, 3).requires_grad_(False), nn.Flatten(), nn.LazyLinear(3)),
        nn.Sequential(SHARED, SHARED, nn.Flatten(), nn.LazyLinear(3)),
        nn.Sequential(Own(1, 2, 3), nn.Flatten(), nn.LazyLinear(3)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(2), nn.LazyLinear(3)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.LazyLinear(3)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(3), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.LazyLinear(3)),
        nn.ModuleList([nn.Conv2d(1, 2, 3)]),
    ],
)
def test_leaves_other_networks_alone(module):
    if isinstance(module, nn.Sequential):  # the lazy layers become what they are
        module(torch.zeros(1, next((m.in_channels for m in module if isinstance(m, nn.Conv2d)), 1), 12, 12))
    params = {n: p for n, p in module.named_parameters() if p.requires_grad}
    assert read_blocks(module, params) is None


@pytest.mark.parametrize(
    ("module", "served"),
    [
        (nn.Sequential(nn.Conv2d(1, 9, 3), nn.Conv2d(9, 16, 3)), False),
        (nn.Sequential(nn.Conv2d(1, 16, 3), nn.Conv2d(16, 15, 3)), False),
        (nn.Sequential(nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3)), True),
        (nn.Sequential(nn.Conv2d(1, 9, 3)), True),
        (nn.Sequential(nn.Conv2d(1, 8, 3)), False),
        (nn.Sequential(nn.Conv2d(16, 16, 3)), True),
    ],
)
def test_the_recorded_rule(module, served):
    network = nn.Sequential(module, nn.Flatten(), nn.Linear(5, 3))
    assert (read_blocks(network, dict(network.named_parameters())) is not None) is served


def test_a_large_model_keeps_no_gradient(monkeypatch):
    wanted = spec("cnn_small", shape=(1, 12, 12), options={})
    network = Network(wanted.model)
    assert subject.convolved(network, wanted) is not None
    monkeypatch.setattr(subject, "LARGE", sum(p.nbytes for p in network.params.values()))
    assert subject.convolved(network, wanted) is None


def test_a_hook_is_not_lost():
    for where in (0, 1):
        module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
        params = dict(module.named_parameters())
        assert read_blocks(module, params) is not None
        (module if where == 0 else module[where]).register_forward_hook(lambda *_: None)
        assert read_blocks(module, params) is None


SHAPE = (1, 12, 12)
ORDERS = ((0, 1, 2), (2, 0, 1))


def trained(data, clients, **settings):
    wanted = spec("cnn_small", shape=SHAPE, options={}, **settings)
    result = Worker(wanted, data).run(train_task(clients), records(wanted))
    return dict(zip(result.members["client"], result.each, strict=True)), result


BALL = {"name": "heavy_ball", "lr": 0.02, "momentum": 0.9}
ADAM = {"name": "adam", "lr": 1e-3, "eps": 1e-2}


@pytest.mark.parametrize(("method", "rule"), [("local_sgd", BALL), ("local_sgd", ADAM), ("scaffold", BALL)])
def test_a_client_trains_as_with_autograd(method, rule):
    """Clients of 21, 3 and 16 examples in batches of 8: full, short and single ones."""
    data = federation((21, 3, 16), shape=SHAPE)
    wanted = spec("cnn_small", shape=SHAPE, options={}, optimizer=rule)
    sent = records(wanted)
    if method == "scaffold":
        wanted = replace(wanted, method="scaffold")
        sent["control"] = {n: np.full_like(a, 1e-3) for n, a in sent["arrays"].items()}
    ends = []
    for vectorize in ("auto", "off"):
        result = Worker(replace(wanted, vectorize=vectorize), data).run(train_task(range(3)), sent)
        assert result.failures == ()
        ends.append(result.each)
    for mine, theirs in zip(*ends, strict=True):
        for name, x in theirs["arrays"].items():
            np.testing.assert_allclose(mine["arrays"][name], x, rtol=0, atol=2e-6 * np.abs(x).max())


def test_a_rule_may_keep_a_gradient():
    """Descends the change of the gradient; the one that it kept must not become the next one."""

    def update(grads, state, params):
        return {n: 0.05 * (state["last"][n] - g) for n, g in grads.items()}, {"last": grads}

    rule = Rule(lambda params: {"last": {n: torch.zeros_like(p) for n, p in params.items()}}, update)
    ends = []
    for vectorize in ("auto", "off"):
        wanted = spec("cnn_small", shape=SHAPE, options={}, optimizer=ADAM, vectorize=vectorize)
        trainer = LoopedTrainer(wanted, Network(wanted.model), lambda _: local_sgd(rule))
        examples = Examples(federation((21, 3, 16), shape=SHAPE), "cpu")
        sent = to_records(records(wanted), "cpu")
        ends.append(trainer.train(train_task(range(3), reduce=True), sent, examples, 1.0).result(0).mean["arrays"])
    for name, x in ends[1].items():
        np.testing.assert_allclose(ends[0][name], x, rtol=0, atol=2e-6 * np.abs(x).max())


def test_a_sum_that_goes_as_it_comes_is_the_same_sum():
    """Folded blocks step while autograd goes back; here nothing goes back, and the steps are taken all the same."""
    data = federation((21, 3, 16), shape=SHAPE)
    wanted = spec("cnn_small", shape=SHAPE, options={}, optimizer=BALL)
    sent = records(wanted)
    plain, folded = (
        Worker(wanted, data).run(train_task(range(3), reduce=True, fold=fold), sent) for fold in (False, True)
    )
    for name, x in plain.mean["arrays"].items():
        moved = x - sent["arrays"][name]
        mean = folded.sums["arrays"][name] / (21 + 3 + 16)
        np.testing.assert_allclose(mean, moved, rtol=0, atol=1e-6 + 1e-4 * np.abs(moved).max())


def test_nothing_is_computed_that_only_feeds_a_border():
    """28x28 without the model's own crop: 26 rows, 24 of the first convolution, 12 pooled, 10 of the second, 5 pooled."""
    layers = [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.MaxPool2d(2)]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(50, 3))
    blocks = read_blocks(module, dict(module.named_parameters()))
    assert subject._sizes(blocks.convolutions, (28, 28)) == [(26, 26), (12, 12), (5, 5)]


def test_the_clients_before_leave_no_trace():
    """Neither the order, nor another batch size, nor a client whose data are NaN changes a bit of the others."""
    plain = federation((21, 3, 16), shape=SHAPE)
    (forward, _), (backward, _) = (trained(plain, order) for order in ORDERS)
    ill, result = trained(federation((21, 3, 16), shape=SHAPE, poison=0), ORDERS[0])
    assert [failure.client for failure in result.failures] == [0]
    for client in (0, 1, 2):
        for name, x in forward[client]["arrays"].items():
            np.testing.assert_array_equal(backward[client]["arrays"][name], x)
            if client:
                np.testing.assert_array_equal(ill[client]["arrays"][name], x)
