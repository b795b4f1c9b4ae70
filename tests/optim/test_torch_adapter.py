"""The adapter is a torch optimizer: groups, schedulers, saving, closures."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fedmomentum.optim import (
    RULES,
    Cosine,
    HyperparameterError,
    adam,
    as_torch_optimizer,
    chain,
    clip_by_norm,
    heavy_ball,
    make_rule,
)

Optimizer = torch.optim.Optimizer


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()


def train(net: nn.Module, optimizer: Optimizer, steps: range, scheduler: Any = None) -> None:
    for step in steps:
        rng = torch.Generator().manual_seed(step)
        x = torch.randn(8, 4, generator=rng, dtype=torch.float64)
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def assert_close(a: nn.Module, b: nn.Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


PAIRS: dict[str, tuple[Callable[[Any], Optimizer], Callable[[Any], Optimizer]]] = {
    "heavy_ball": (
        lambda ps: as_torch_optimizer("heavy_ball", ps, lr=0.1, momentum=0.9),
        lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
    ),
    "adamw": (
        lambda ps: as_torch_optimizer("adamw", ps, lr=0.1, weight_decay=0.1),
        lambda ps: torch.optim.AdamW(ps, lr=0.1, weight_decay=0.1),
    ),
    "rule": (
        lambda ps: as_torch_optimizer(make_rule("nesterov", lr=0.1, momentum=0.8), ps),
        lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.8, nesterov=True),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_trains_as_torch_does(name: str) -> None:
    nets = model(), model()
    for net, make in zip(nets, PAIRS[name], strict=True):
        train(net, make(net.parameters()), range(20))
    assert_close(*nets)
    assert not same(nets[0], model())


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "warm restarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "sequence": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=4), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)],
        [4],
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("schedule", SCHEDULERS)
@pytest.mark.parametrize("name", PAIRS)
def test_schedulers_change_the_step_size(name: str, schedule: str) -> None:
    nets = model(), model()
    for net, make in zip(nets, PAIRS[name], strict=True):
        optimizer = make(net.parameters())
        train(net, optimizer, range(12), SCHEDULERS[schedule](optimizer))
    assert_close(*nets)
    unscheduled = model()
    train(unscheduled, PAIRS[name][0](unscheduled.parameters()), range(12))
    assert not same(unscheduled, nets[0])


def test_one_cycle_moves_the_momentum_too() -> None:
    nets = model(), model()
    for net, make in zip(nets, PAIRS["heavy_ball"], strict=True):
        optimizer = make(net.parameters())
        train(net, optimizer, range(12), torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=13))
        assert optimizer.param_groups[0]["momentum"] != 0.9
    assert_close(*nets)


def test_the_factor_of_a_rule_scales_its_step() -> None:
    """A factor on the updates is a factor on lr, weight decay included."""
    nets = model(), model()
    inside = as_torch_optimizer(make_rule("adamw", lr=0.05, weight_decay=0.3), nets[0].parameters())
    factor = as_torch_optimizer(make_rule("adamw", lr=0.2, weight_decay=0.3), nets[1].parameters(), lr=0.25)
    train(nets[0], inside, range(10))
    train(nets[1], factor, range(10))
    assert_close(*nets)


def test_groups_have_hyperparameters_of_their_own() -> None:
    nets = model(), model()
    ours = as_torch_optimizer(
        "heavy_ball",
        [{"params": nets[0][0].parameters(), "lr": 0.3}, {"params": nets[0][2].parameters(), "momentum": 0.5}],
        lr=0.1,
        momentum=0.9,
    )
    theirs = torch.optim.SGD(
        [{"params": nets[1][0].parameters(), "lr": 0.3}, {"params": nets[1][2].parameters(), "momentum": 0.5}],
        lr=0.1,
        momentum=0.9,
    )
    train(nets[0], ours, range(10))
    train(nets[1], theirs, range(10))
    assert_close(*nets)


def test_a_group_may_be_added_later() -> None:
    nets = model(), model()
    optimizers = []
    for net, cls in zip(nets, (lambda ps: as_torch_optimizer("adam", ps, lr=0.1), None), strict=True):
        optimizer = cls(net[0].parameters()) if cls else torch.optim.Adam(net[0].parameters(), lr=0.1)
        train(net, optimizer, range(5))
        net.zero_grad()
        optimizer.add_param_group({"params": list(net[2].parameters()), "lr": 0.01})
        train(net, optimizer, range(5, 12))
        optimizers.append(optimizer)
    assert_close(*nets)
    with pytest.raises(HyperparameterError, match="beta1 must be in"):
        optimizers[0].add_param_group({"params": [torch.zeros(1, requires_grad=True)], "beta1": 3.0})
    assert len(optimizers[0].param_groups) == 2


def test_a_parameter_without_a_gradient_waits() -> None:
    """Its count stands still, as in torch: bias correction later is that of its own steps."""
    nets = model(), model()
    for net, make in zip(
        nets, (lambda ps: as_torch_optimizer("adam", ps, lr=0.1), lambda ps: torch.optim.Adam(ps, lr=0.1)), strict=True
    ):
        optimizer = make(net.parameters())
        frozen = copy.deepcopy(net[0].weight)
        net[0].weight.requires_grad_(False)
        train(net, optimizer, range(4))
        assert torch.equal(net[0].weight, frozen)
        net[0].weight.requires_grad_(True)
        train(net, optimizer, range(4, 10))
        assert not torch.equal(net[0].weight, frozen)
        assert sorted({int(s["step"]) for s in optimizer.state.values()}) == [6, 10]
    assert_close(*nets)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


CHAINED = chain(clip_by_norm(0.5), heavy_ball(lr=1.0, momentum=0.3), adam(lr=Cosine(value=0.1, steps=30)))


@pytest.mark.parametrize("name", [*RULES, "a chain with a schedule"])
def test_a_run_goes_on_from_a_file_bit_for_bit(name: str) -> None:
    def make(net: nn.Module) -> Optimizer:
        if name in RULES:
            return as_torch_optimizer(name, net.parameters(), lr=0.05, weight_decay=0.1)
        return as_torch_optimizer(CHAINED, net.parameters())

    whole = model()
    train(whole, make(whole), range(14))

    first = model()
    optimizer = make(first)
    train(first, optimizer, range(6))
    saved = through_a_file({"model": first.state_dict(), "optimizer": optimizer.state_dict()})
    train(first, optimizer, range(6, 9))  # what was saved does not follow

    second = model(1)
    second.load_state_dict(saved["model"])
    resumed = make(second)
    resumed.load_state_dict(saved["optimizer"])
    train(second, resumed, range(6, 14))
    assert same(whole, second)
    forgotten = model(1)
    forgotten.load_state_dict(saved["model"])
    train(forgotten, make(forgotten), range(6, 14))
    assert same(whole, forgotten) == (name == "sgd")


def test_a_loaded_state_brings_its_hyperparameters() -> None:
    net = model()
    saved = as_torch_optimizer("heavy_ball", net.parameters(), lr=0.3, momentum=0.5).state_dict()
    a, b = model(), model()
    loaded = as_torch_optimizer("heavy_ball", a.parameters(), lr=0.1, momentum=0.9)
    train(a, loaded, range(0))
    loaded.load_state_dict(saved)
    train(a, loaded, range(5))
    train(b, as_torch_optimizer("heavy_ball", b.parameters(), lr=0.3, momentum=0.5), range(5))
    assert same(a, b)


def test_copies_and_pickles_go_on_alone() -> None:
    net = model()
    optimizer = as_torch_optimizer("adam", net.parameters(), lr=0.1)
    train(net, optimizer, range(3))
    both = copy.deepcopy((net, optimizer))
    third = pickle.loads(pickle.dumps((net, optimizer)))
    for pair in ((net, optimizer), both, third):
        train(*pair, range(3, 8))
    assert same(net, both[0])
    assert same(net, third[0])


def test_closures_named_parameters_and_maximal_hygiene() -> None:
    net = model()
    optimizer = as_torch_optimizer("sgd", net.named_parameters(), lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == [name for name, _ in net.named_parameters()]
    x = torch.ones(3, 4, dtype=torch.float64)

    def closure() -> float:
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss.item()

    losses = [optimizer.step(closure) for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    optimizer.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    assert all(p.requires_grad and p.is_leaf for p in net.parameters())


def test_clipping_sees_the_whole_group() -> None:
    nets = model(), model()
    ours = as_torch_optimizer(chain(clip_by_norm(0.05), make_rule("sgd", lr=1.0)), nets[0].parameters())
    train(nets[0], ours, range(1))
    moved = [(p - q).double() for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True)]
    assert float(torch.cat([m.flatten() for m in moved]).detach().norm()) == pytest.approx(0.05, rel=1e-9)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda ps: as_torch_optimizer("adm", ps, lr=0.1), HyperparameterError, "did you mean 'adam'"),
        (lambda ps: as_torch_optimizer("adam", ps, lr=0.1, beta=0.9), HyperparameterError, "did you mean 'beta"),
        (lambda ps: as_torch_optimizer("adam", ps, lr=-0.1), HyperparameterError, "lr must be"),
        (lambda ps: as_torch_optimizer("adam", ps), ValueError, "required optimization parameter lr"),
        (lambda ps: as_torch_optimizer("sgd", ps, lr=Cosine(value=0.1, steps=3)), HyperparameterError, "make the rule"),
        (lambda ps: as_torch_optimizer("sgd", ps, lr=torch.ones(2)), HyperparameterError, "make the rule"),
        (lambda ps: as_torch_optimizer(adam(lr=0.1), ps, beta1=0.9), HyperparameterError, "only lr can be given"),
        (lambda ps: as_torch_optimizer("sgd", [], lr=0.1), ValueError, "empty parameter list"),
    ],
)
def test_wrong_calls_are_refused(make: Callable[[Any], Optimizer], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make(list(model().parameters()))
