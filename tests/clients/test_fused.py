"""Torch's fused kernel against torch's own optimizer, one client after another."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fedmomentum.clients.fused import fused_sgd
from fedmomentum.optim import make_rule


def parameters():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in ((3, 4), (4,), (2,))]


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("sgd", {"lr": 0.1}),
        ("heavy_ball", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
        ("nesterov", {"lr": 0.1, "momentum": 0.8}),
    ],
)
def test_equals_torchs_optimizer_also_after_another_client(name, hyper):
    own, theirs = parameters(), parameters()
    fused = fused_sgd(name, hyper, "abc", own)
    for client in range(2):
        optimizer = torch.optim.SGD(theirs, **hyper, nesterov=name == "nesterov")
        fused.reset(0.1, None)
        for step in range(4):
            for a, b in zip(own[:2], theirs[:2], strict=True):  # the third takes no part: nothing may move it
                a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(10 * client + step))
                b.grad = a.grad.clone()
            fused.step()
            optimizer.step()
        for a, b in zip(own, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_stepping_while_the_gradients_come_gives_the_bits_of_stepping_after(momentum):
    """Also where two layers share their weights, and where a parameter takes no part."""
    found = []
    for early in (False, True):
        torch.manual_seed(0)
        first, last, unused = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6), torch.nn.Parameter(torch.ones(3))
        last.weight = first.weight
        params = [first.weight, first.bias, last.bias, unused]
        fused = fused_sgd("heavy_ball", {"lr": 0.1, "momentum": momentum}, "abcd", params)
        fused.reset(0.1, None)
        for _ in range(4):
            for p in params:
                p.grad = None
            loss = last(torch.relu(first(torch.randn(5, 6)))).square().mean()
            if early:
                with fused.while_backward():
                    loss.backward()
                assert all(p.grad is None for p in params)
            else:
                loss.backward()
                fused.step()
        loss = last(first(torch.ones(1, 6))).sum()
        loss.backward()  # no hook is left behind
        assert first.weight.grad is not None
        fused.release()
        found.append([p.detach().clone() for p in params])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["heavy_ball", "nesterov"])
def test_a_momentum_that_is_left_out_is_the_rules_own(name):
    own, theirs = parameters(), parameters()
    rule = make_rule(name, lr=0.1)
    tree = dict(zip("abc", (p.detach() for p in theirs), strict=True))
    fused, state = fused_sgd(name, {"lr": 0.1}, "abc", own), rule.init(tree)
    fused.reset(0.1, None)
    for _ in range(3):
        for p in own:
            p.grad = torch.ones_like(p)
        fused.step()
        updates, state = rule.update({n: torch.ones_like(x) for n, x in tree.items()}, state, tree)
        tree = {n: x + updates[n] for n, x in tree.items()}
    for p, x in zip(own, tree.values(), strict=True):
        torch.testing.assert_close(p.detach(), x)


def test_a_velocity_that_was_kept_is_gone_on_with():
    hyper = {"lr": 0.1, "momentum": 0.9}
    straight, broken = parameters(), parameters()
    one, two = (fused_sgd("heavy_ball", hyper, "abc", p) for p in (straight, broken))
    kept = None
    one.reset(0.1, None)
    for step in range(4):
        two.reset(0.1, kept)
        for params, optimizer in ((straight, one), (broken, two)):
            for p in params:
                p.grad = torch.full_like(p, float(step))
            optimizer.step()
        kept = two.state()
    for a, b in zip(straight, broken, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("adam", {"lr": 0.1}),
        ("heavy_ball", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
        ("heavy_ball", {"lr": 0.1, "momentum": -0.5}),
        ("nesterov", {"lr": 0.1, "momentum": 0.0}),
        ("sgd", {"lr": 0.1, "weight_decay": 0.1, "decay": "decoupled"}),
    ],
)
def test_other_rules_are_left_alone(name, hyper):
    assert fused_sgd(name, hyper, "abc", parameters()) is None


def test_a_worker_does_not_import_torchs_compiler():
    """It would take longer than the first rounds do."""
    code = """
import sys
from fedmomentum.clients.worker import Worker
from tests.clients.federation import federation, records, spec, train_task
for model, options in (("mlp", None), ("cnn_small", {})):
    wanted = spec(model, shape=(1, 12, 12), options=options)
    result = Worker(wanted, federation((9, 5), shape=(1, 12, 12))).run(train_task(range(2)), records(wanted))
    assert not result.failures
heavy = {"torch._dynamo", "torch._inductor", "sympy", "pandas", "sklearn", "matplotlib", "flwr", "ray"}
sys.exit(", ".join(sorted(heavy & sys.modules.keys())) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
