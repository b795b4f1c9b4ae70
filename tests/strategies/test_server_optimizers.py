"""Server steps against torch.optim and against the papers' equations, written out in numpy."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

import fedmomentum.strategies as ours
from fedmomentum.optim import RULES, Rule, adam, chain, clip_by_norm, make_rule
from fedmomentum.strategies import fedopt

X0 = {"w": np.linspace(-1.0, 2.0, 6).reshape(2, 3), "b": np.array([0.3, -4.0])}
CURVATURE = {"w": np.array([[1.0, 0.5, 2.0], [0.1, 3.0, 1.5]]), "b": np.array([0.7, 0.2])}
ROUNDS = 8


def pseudo_gradients(x, server_round):
    """What one client's step of gradient descent at rate 1 does to a quadratic, with a push that changes by round."""
    return {k: CURVATURE[k] * (v - 0.1 * server_round) for k, v in x.items()}


@pytest.fixture
def trajectory(grid_of, training, play):
    """Ours, on two clients with unequal weights whose weighted mean is ``x - pseudo_gradients(x)``."""

    def run(strategy, start=X0):
        def client(offset):
            return training(
                lambda x, r: {k: x[k] - g + offset for k, g in pseudo_gradients(x, r).items()}, 1 if offset > 0 else 3
            )

        return play(strategy, grid_of({1: client(3.0), 2: client(-1.0)}), start, range(1, ROUNDS + 1))

    return run


def assert_close(mine, theirs, tolerance=1e-12):
    assert len(mine) == len(theirs) == ROUNDS
    for a, b in zip(mine, theirs, strict=True):
        for key in X0:
            np.testing.assert_allclose(a[key], b[key], rtol=tolerance, atol=tolerance)


def torch_trajectory(make, **options):
    x = {k: torch.tensor(v, requires_grad=True) for k, v in X0.items()}
    optimizer = make(list(x.values()), **options)
    history = []
    for server_round in range(1, ROUNDS + 1):
        for key, gradient in pseudo_gradients({k: v.detach().numpy() for k, v in x.items()}, server_round).items():
            x[key].grad = torch.from_numpy(gradient)
        optimizer.step()
        history.append({k: v.detach().numpy().copy() for k, v in x.items()})
    return history


TORCH = {
    "heavy ball": (dict(server_momentum=0.9, server_learning_rate=0.3), dict(momentum=0.9, lr=0.3)),
    "dampened": (
        dict(server_momentum=0.8, server_learning_rate=0.3, dampening=0.4),
        dict(momentum=0.8, lr=0.3, dampening=0.4),
    ),
    "nesterov": (
        dict(server_momentum=0.9, server_learning_rate=0.2, form="nesterov"),
        dict(momentum=0.9, lr=0.2, nesterov=True),
    ),
    "plain": (dict(server_learning_rate=0.4), dict(lr=0.4)),
    "mean": ({}, dict(lr=1.0)),
}


@pytest.mark.parametrize("case", TORCH)
def test_fedavgm_is_torch_sgd_on_the_pseudo_gradient(case, trajectory):
    mine, theirs = TORCH[case]
    assert_close(trajectory(ours.FedAvgM(**mine)), torch_trajectory(torch.optim.SGD, **theirs))


def test_one_full_batch_step_of_every_client_is_centralised_training(grid_of, training, play):
    """One local step at rate lr by all clients and server rate 1 is torch.optim.SGD on the pooled data at rate lr."""
    rng = np.random.default_rng(3)
    data = [(rng.normal(size=(n, 3)), rng.normal(size=n)) for n in (4, 9, 7)]
    lr, start = 0.1, {"w": rng.normal(size=3)}

    def client(a, b):
        return training(lambda x, r: {"w": x["w"] - lr * a.T @ (a @ x["w"] - b) / len(b)}, weight=len(b))

    clients = {node: client(a, b) for node, (a, b) in enumerate(data, start=1)}
    mine = play(ours.FedAvgM(server_momentum=0.9, form="nesterov"), grid_of(clients), start, range(1, 11))

    pooled, targets = (torch.from_numpy(np.concatenate(part)) for part in zip(*data, strict=True))
    w = torch.tensor(start["w"], requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=lr, momentum=0.9, nesterov=True)
    for x in mine:
        optimizer.zero_grad()
        (0.5 * (pooled @ w - targets).square().mean()).backward()
        optimizer.step()
        np.testing.assert_allclose(x["w"], w.detach().numpy(), rtol=1e-12)


def transcription(second_moment, *, eta, b1, b2, tau, v0, stretch=lambda t: 1.0, weight_decay=0.0):
    """Algorithm 2 of Reddi et al. with the correction factor ``stretch`` that a convention puts before ``eta``."""
    x = {k: v.copy() for k, v in X0.items()}
    m = {k: np.zeros_like(v) for k, v in x.items()}
    v = {k: np.full_like(value, v0) for k, value in x.items()}
    history = []
    for t in range(1, ROUNDS + 1):
        delta = {k: -g for k, g in pseudo_gradients(x, t).items()}  # the paper's sign: the direction of travel
        for k in x:
            m[k] = b1 * m[k] + (1 - b1) * delta[k]
            v[k] = second_moment(v[k], delta[k] ** 2, b2)
            x[k] = (1 - eta * weight_decay) * x[k] + eta * stretch(t) * m[k] / (np.sqrt(v[k]) + tau)
        history.append({k: value.copy() for k, value in x.items()})
    return history


SECOND_MOMENT = {
    "FedAdagrad": lambda v, square, b2: v + square,
    "FedAdam": lambda v, square, b2: b2 * v + (1 - b2) * square,
    "FedAdamW": lambda v, square, b2: b2 * v + (1 - b2) * square,
    "FedYogi": lambda v, square, b2: v - (1 - b2) * square * np.sign(v - square),
}
B1, B2, TAU, ETA = 0.7, 0.95, 0.03, 0.2


def corrected(offset):
    return lambda t: np.sqrt(1 - B2 ** (t + offset)) / (1 - B1 ** (t + offset))


CONVENTIONS = [
    ("FedAdagrad", "paper", TAU**2, None),
    ("FedAdagrad", "keras", 0.0, None),
    ("FedAdagrad", "flower", 0.0, None),
    ("FedAdam", "paper", TAU**2, None),
    ("FedAdam", "keras", 0.0, 0),
    ("FedAdam", "flower", 0.0, 1),
    ("FedAdamW", "paper", TAU**2, None),
    ("FedAdamW", "keras", 0.0, 0),
    ("FedAdamW", "flower", 0.0, 1),
    ("FedYogi", "paper", TAU**2, None),
    ("FedYogi", "keras", 0.0, 0),
    ("FedYogi", "flower", 0.0, None),
]


@pytest.mark.parametrize(("name", "convention", "v0", "offset"), CONVENTIONS)
def test_adaptive_rules_are_those_of_the_paper(name, convention, v0, offset, trajectory):
    options = {"eta": ETA, "beta_1": B1, "tau": TAU, "convention": convention}
    options |= {} if name == "FedAdagrad" else {"beta_2": B2}
    decay = {"weight_decay": 0.25} if name == "FedAdamW" else {}
    expected = transcription(
        SECOND_MOMENT[name],
        eta=ETA,
        b1=B1,
        b2=B2,
        tau=TAU,
        v0=v0,
        stretch=(lambda t: 1.0) if offset is None else corrected(offset),
        **decay,
    )
    assert_close(trajectory(getattr(ours, name)(**options, **decay)), expected, 1e-11)


def test_the_comparison_tells_mutants_apart():
    """A transcription with one thing wrong is far from the right one, so the test above would fail on it."""
    right = {"eta": ETA, "b1": B1, "b2": B2, "tau": TAU, "v0": TAU**2}
    reference = transcription(SECOND_MOMENT["FedAdam"], **right)
    mutants = [
        {**right, "eta": -ETA},
        {**right, "b1": 0.0},
        {**right, "b1": B2, "b2": B1},
        {**right, "v0": 0.0},
        {**right, "tau": TAU**2},
        {**right, "stretch": corrected(0)},
    ]
    for mutant in mutants:
        with pytest.raises(AssertionError):
            assert_close(transcription(SECOND_MOMENT["FedAdam"], **mutant), reference, 1e-3)
    with pytest.raises(AssertionError):
        assert_close(transcription(SECOND_MOMENT["FedYogi"], **right), reference, 1e-3)


@pytest.mark.parametrize("form", ["heavy_ball", "nesterov", "ema"])
@pytest.mark.parametrize("mutant", [{"server_momentum": 0.0}, {"server_momentum": -0.9}, {"server_learning_rate": 0.1}])
def test_forms_of_momentum_differ_from_their_mutants(form, mutant, trajectory):
    right = {"server_momentum": 0.9, "server_learning_rate": 0.3, "form": form}
    reference = trajectory(ours.FedAvgM(**right))
    with pytest.raises(AssertionError):
        assert_close(trajectory(ours.FedAvgM(**(right | mutant))), reference, 1e-3)


def test_ema_is_the_heavy_ball_with_a_shorter_step(trajectory):
    ema = trajectory(ours.FedAvgM(server_momentum=0.9, server_learning_rate=1.0, form="ema"))
    assert_close(ema, trajectory(ours.FedAvgM(server_momentum=0.9, server_learning_rate=0.1)))


@pytest.mark.parametrize(
    ("rule", "options", "torch_optimizer", "torch_options"),
    [
        ("adamw", {"lr": 0.1, "weight_decay": 0.2}, torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.2}),
        ("adagrad", {"lr": 0.1}, torch.optim.Adagrad, {"lr": 0.1}),
        (adam(lr=0.1, amsgrad=True), {}, torch.optim.Adam, {"lr": 0.1, "amsgrad": True}),
    ],
)
def test_fedopt_takes_any_rule(rule, options, torch_optimizer, torch_options, trajectory):
    mine = trajectory(ours.FedOpt(rule=rule, rule_options=options))
    assert_close(mine, torch_trajectory(torch_optimizer, **torch_options), 1e-9)


def test_a_schedule_and_a_hyperparameter_changed_by_hand_count(grid_of, training, play):
    clients = {node: training(lambda x, r: {"w": x["w"] - 1.0}) for node in (1, 2)}
    start = {"w": np.zeros(1)}
    by_schedule = play(
        ours.FedAvgM(server_learning_rate=lambda step: 0.5**step, server_momentum=0.5),
        grid_of(clients),
        start,
        [1, 2, 3],
    )
    strategy = ours.FedAvgM(server_momentum=0.5)
    by_hand = []
    for server_round in (1, 2, 3):
        strategy.server_learning_rate = 0.5 ** (server_round - 1)
        by_hand += play(strategy, grid_of(clients), by_hand[-1] if by_hand else start, [server_round])
    velocity = [1.0, 1.5, 1.75]
    expected = -np.cumsum([v * 0.5**k for k, v in enumerate(velocity)])
    np.testing.assert_allclose([x["w"][0] for x in by_schedule], expected)
    np.testing.assert_allclose([x["w"][0] for x in by_hand], expected)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ours.FedAvgM(server_learning_rate=-1.0), "lr must be a finite number of at least 0, not -1"),
        (lambda: ours.FedAvgM(server_momentum=1.5), r"momentum must be in \[-1, 1\], not 1.5"),
        (lambda: ours.FedAvgM(form="polyak"), "form must be one of heavy_ball, ema, nesterov, not 'polyak'"),
        (lambda: ours.FedAvgM(form="ema", dampening=0.1), "dampening belongs to the heavy_ball form"),
        (lambda: ours.FedAdam(beta_2=1.0), r"beta2 must be in \[0, 1\), not 1"),
        (lambda: ours.FedYogi(convention="tff"), "convention must be one of paper, keras, flower, not 'tff'"),
        (lambda: ours.FedOpt(rule="adamm"), "did you mean 'adam'"),
        (lambda: ours.FedOpt(rule=make_rule("sgd", lr=1.0), rule_options={"lr": 2.0}), "a ready-made Rule has its"),
        (lambda: ours.FedAvg(fraction_train=1.5), r"fraction_train must be in \[0, 1\], not 1.5"),
        (lambda: ours.FedAvg(quorum=0), "at least 1, not 0"),
        (lambda: ours.FedAvg(quorum=1.5), r"in \(0, 1\], not 1.5"),
        (lambda: ours.FedAvg(accumulation="double"), "accumulation must be one of wide, native, not 'double'"),
        (lambda: ours.FedAvg(buffers="bn.mean"), "buffers must be a collection of names"),
    ],
)
def test_bad_arguments_are_named_when_the_strategy_is_made(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "make",
    [
        *(partial(ours.FedOpt, rule=name, rule_options={"lr": 0.1}) for name in RULES),
        partial(ours.FedAvgM, server_momentum=0.9, form="nesterov"),
        *(partial(cls, eta=0.1) for cls in (ours.FedAdagrad, ours.FedAdam, ours.FedAdamW, ours.FedYogi)),
    ],
)
def test_a_large_model_steps_tensor_by_tensor_to_the_same_bits(make, trajectory, monkeypatch):
    whole = make()
    at_once = trajectory(whole)
    monkeypatch.setattr(fedopt, "LARGE", 0)
    stepped, seen = make(), set()
    rule_of = stepped.server_rule

    def watched():
        rule = rule_of()

        def update(grads, state, params):
            seen.update((tuple(grads), tuple(params), *(tuple(t) for slot, t in state.items() if slot != "step")))
            return rule.update(grads, state, params)

        return Rule(rule.init, update)

    stepped.server_rule = watched
    for a, b in zip(at_once, trajectory(stepped), strict=True):
        assert all(a[name].tobytes() == b[name].tobytes() for name in X0)
    assert seen == {("w",), ("b",)}
    before, after = whole.state_dict()["server"], stepped.state_dict()["server"]
    assert [list(tree) for tree in before.values()] == [list(tree) for tree in after.values()]
    assert all(torch.equal(x, after[slot][name]) for slot, tree in before.items() for name, x in tree.items())


def test_a_rule_that_looks_at_the_whole_model_is_given_the_whole_model(trajectory, monkeypatch):
    rule = chain(clip_by_norm(0.5), make_rule("sgd", lr=1.0))
    at_once = trajectory(ours.FedOpt(rule=rule))
    monkeypatch.setattr(fedopt, "LARGE", 0)
    assert_close(trajectory(ours.FedOpt(rule=rule)), at_once, tolerance=0.0)
