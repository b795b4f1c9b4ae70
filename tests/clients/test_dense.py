from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from fedmomentum.clients.dense import dense_gradients, goal, momentum_step, read_layers


def network(sizes, *, bias=True):
    layers = [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


@settings(max_examples=25, deadline=None)
@given(
    clients=st.integers(1, 4),
    batch=st.integers(1, 5),
    sizes=st.lists(st.integers(1, 7), min_size=2, max_size=5),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_vmap_of_autograd(clients, batch, sizes, bias, seed):
    torch.manual_seed(seed)
    module = network(sizes, bias=bias)
    params = {n: torch.randn(clients, *p.shape, dtype=torch.float64) for n, p in module.named_parameters()}
    x = torch.randn(clients, batch, sizes[0], dtype=torch.float64)
    y = torch.randint(0, sizes[-1], (clients, batch))
    weight = torch.ones(clients, batch, dtype=torch.float64)
    weight[0, 1:] = 0

    def loss(p, x, y, w):
        return (F.cross_entropy(functional_call(module, p, (x,)), y, reduction="none") * w).sum() / w.sum()

    expected, values = vmap(grad_and_value(loss))(params, x, y, weight)
    found, losses = dense_gradients(module)(params, x, y, weight)
    torch.testing.assert_close(losses, values, rtol=1e-12, atol=1e-12)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sizes", [(3, 2), (4, 5, 1)])
def test_squares_equal_vmap_of_autograd(sizes):
    torch.manual_seed(0)
    module = network(sizes)
    params = {n: torch.randn(3, *p.shape, dtype=torch.float64) for n, p in module.named_parameters()}
    x, y = (torch.randn(3, 4, size, dtype=torch.float64) for size in (sizes[0], sizes[-1]))
    weight = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [2, 1, 1, 0]], dtype=torch.float64)

    def loss(p, x, y, w):
        errors = F.mse_loss(functional_call(module, p, (x,)), y, reduction="none").sum(1) / 2
        return (errors * w).sum() / w.sum()

    expected, values = vmap(grad_and_value(loss))(params, x, y, weight)
    found, losses = dense_gradients(module)(params, x, y, weight)
    torch.testing.assert_close(losses, values, rtol=1e-12, atol=1e-12)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU()),
        nn.Sequential(nn.Linear(4, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 3).requires_grad_(False), nn.Linear(3, 2)),
        nn.Linear(4, 3),
    ],
)
def test_leaves_other_networks_alone(module):
    assert dense_gradients(module) is None


def test_a_hook_is_not_lost():
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    assert dense_gradients(module) is not None
    module[1].register_forward_hook(lambda *_: None)
    assert dense_gradients(module) is None


@settings(max_examples=25, deadline=None)
@given(
    clients=st.integers(1, 4),
    batch=st.integers(1, 5),
    sizes=st.lists(st.integers(1, 7), min_size=2, max_size=5),
    bias=st.booleans(),
    ball=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_step_with_the_velocity_built_in_equals_gradient_and_rule(clients, batch, sizes, bias, ball, seed):
    torch.manual_seed(seed)
    module = network(sizes, bias=bias)
    params = {n: torch.randn(clients, *p.shape, dtype=torch.float64) for n, p in module.named_parameters()}
    velocity = {n: torch.randn_like(p) for n, p in params.items()} if ball else None
    x = torch.randn(clients, batch, sizes[0], dtype=torch.float64)
    y = torch.randint(0, sizes[-1], (clients, batch))
    weight = torch.ones(clients, batch, dtype=torch.float64)
    grads, losses = dense_gradients(module)(params, x, y, weight)
    moved = {n: 0.9 * velocity[n] + g if velocity else g for n, g in grads.items()}
    expected = {n: p - 0.1 * moved[n] for n, p in params.items()}
    target = goal(y, weight, sizes[-1])
    found = momentum_step(read_layers(module), params, velocity, x, target, 0.1, 0.9)
    torch.testing.assert_close(found, losses, rtol=1e-12, atol=1e-12)
    for name in expected:
        torch.testing.assert_close(params[name], expected[name], rtol=1e-10, atol=1e-12)
        if velocity:
            torch.testing.assert_close(velocity[name], moved[name], rtol=1e-10, atol=1e-12)


def test_layers_that_share_a_tensor_are_no_dense_network():
    """Their gradients add up; a layer that comes twice has its name only once."""
    twice, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.weight = twice.weight
    for second in (twice, other):
        assert read_layers(nn.Sequential(nn.Flatten(), twice, nn.ReLU(), second, nn.Linear(4, 2))) is None
