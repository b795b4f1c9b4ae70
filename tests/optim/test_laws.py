"""What theory says of the rules on problems whose solution is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedmomentum import trees
from fedmomentum.optim import Rule, adam, adamw, ema, heavy_ball, lion, make_rule, nesterov, sgd
from fedmomentum.optim.problems import (
    FederatedQuadratic,
    Quadratic,
    Rosenbrock,
    heterogeneous_quadratics,
    quadratic,
    ravine,
    turn,
)


def descend(rule: Rule, gradient: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> Tensor:
    """Give the points visited, ``[steps + 1, ...]``."""
    point = {"x": x}
    state = rule.init(point)
    visited = [x]
    for _ in range(steps):
        updates, state = rule.update({"x": gradient(point["x"])}, state, point)
        point = trees.add(point, updates)
        visited.append(point["x"])
    return torch.stack(visited)


def scalar(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


FORMS: dict[str, Callable[..., Rule]] = {"heavy_ball": heavy_ball, "ema": ema, "nesterov": nesterov}


def critical(form: str, a: float) -> tuple[float, float]:
    """Give the critically damped momentum and the double root, for step size times curvature ``a``."""
    root = math.sqrt(a)
    if form == "heavy_ball":
        return (1 - root) ** 2, 1 - root
    if form == "ema":
        beta = ((1 - a) / (1 + a)) ** 2
        return beta, math.sqrt(beta)
    return (1 - root) / (1 + root), 1 - root


@pytest.mark.parametrize("a", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("form", FORMS)
def test_critical_damping(form: str, a: float) -> None:
    """At the critical momentum both roots are r: x_t / r^t is a straight line in t, which no other momentum gives."""
    beta, radius = critical(form, a)
    h = 2.0

    def bend(momentum: float) -> float:
        x = descend(FORMS[form](lr=a / h, momentum=momentum), lambda x: h * x, scalar(1.0), 25)[:, 0]
        straight = x / radius ** torch.arange(len(x), dtype=torch.float64)
        return float(straight.diff().diff().abs().max() / straight.abs().max())

    assert bend(beta) < 1e-9
    assert bend(beta * 0.99) > 1e-6
    assert bend(min(1.0, beta * 1.01)) > 1e-6


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.99])
def test_underdamped_heavy_ball_turns_at_the_predicted_radius_and_frequency(beta: float) -> None:
    """z^2 - (1 + beta - a) z + beta = 0: x_t obeys that recurrence, so |z|^2 = beta and the angle is acos(...)."""
    a, h = 0.3, 3.0
    x = descend(heavy_ball(lr=a / h, momentum=beta), lambda x: h * x, scalar(1.0), 40)[:, 0]
    trace_and_det = torch.linalg.lstsq(torch.stack([x[1:-1], -x[:-2]], 1), x[2:, None]).solution[:, 0]
    assert float(trace_and_det[1]) == pytest.approx(beta, rel=1e-9)
    assert float(trace_and_det[0]) == pytest.approx(1 + beta - a, rel=1e-9)
    assert 2 * math.sqrt(beta) > 1 + beta - a  # it does oscillate


LIMITS: dict[str, Callable[[float], float]] = {
    "heavy_ball": lambda beta: 2 * (1 + beta),
    "nesterov": lambda beta: 2 * (1 + beta) / (1 + 2 * beta),
    "ema": lambda beta: 2 * (1 + beta) / (1 - beta),
}


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("form", FORMS)
def test_stability_limit(form: str, beta: float) -> None:
    h = 0.7
    for share, stable in ((0.98, True), (1.02, False)):
        rule = FORMS[form](lr=share * LIMITS[form](beta) / h, momentum=beta)
        last = descend(rule, lambda x: h * x, scalar(1.0), 3000)[-1].abs().item()
        assert (last < 1e-6) == stable
        assert (last > 1e6) == (not stable)


def test_negative_momentum_steadies_a_bilinear_game() -> None:
    """min_x max_y xy, alternating: diverges with momentum, circles without, converges with b1 = -1/2, b2 = 0."""

    def distance(b1: float, b2: float, lr: float = 0.1, steps: int = 2000) -> float:
        first, second = heavy_ball(lr=lr, momentum=b1), heavy_ball(lr=lr, momentum=b2)
        x, y = {"x": scalar(1.0)}, {"x": scalar(1.0)}
        s, t = first.init(x), second.init(y)
        for _ in range(steps):
            updates, s = first.update(y, s, x)
            x = trees.add(x, updates)
            updates, t = second.update(trees.scale(x, -1.0), t, y)
            y = trees.add(y, updates)
        return math.hypot(x["x"].item(), y["x"].item())

    assert distance(0.5, 0.5) > 100.0
    assert 0.5 < distance(0.0, 0.0) < 2.5
    # rho^2 is about 1 - 2 lr^2 / 9.
    assert math.log(distance(-0.5, 0.0)) == pytest.approx(2000 / 2 * math.log(1 - 2 * 0.01 / 9), rel=0.2)


def test_averaging_is_the_heavy_ball_with_a_shorter_step() -> None:
    problem = quadratic([1.0, 7.0], rotation=turn(0.4), optimum=[1.0, -2.0])
    x = torch.zeros(2, dtype=torch.float64)
    a = descend(ema(lr=0.5, momentum=0.8), problem.gradient, x, 60)
    b = descend(heavy_ball(lr=0.5 * (1 - 0.8), momentum=0.8), problem.gradient, x, 60)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_nesterov_is_the_heavy_ball_with_a_derivative_term() -> None:
    """x_{t+1} - x_t = beta (x_t - x_{t-1}) - lr g_t - lr beta (g_t - g_{t-1})."""
    problem = quadratic([1.0, 7.0], rotation=turn(0.4))
    lr, beta = 0.1, 0.8
    x = descend(nesterov(lr=lr, momentum=beta), problem.gradient, torch.tensor([1.0, 2.0], dtype=torch.float64), 40)
    g = problem.gradient(x)
    pid = beta * (x[1:-1] - x[:-2]) - lr * g[1:-1] - lr * beta * (g[1:-1] - g[:-2])
    torch.testing.assert_close(x[2:] - x[1:-1], pid, rtol=0.0, atol=1e-13)


def steps_to(rule: Rule, problem: Quadratic, x: Tensor, share: float = 1e-4, limit: int = 4000) -> int:
    heights = problem.value(descend(rule, problem.gradient, x, limit))
    return int((heights > share * heights[0]).nonzero().max()) + 1


@pytest.mark.parametrize("angle", [0.0, math.pi / 4, 1.0])
def test_ravine_rates(angle: float) -> None:
    """Optimal step sizes at condition number 1000: gradient descent, the heavy ball and their known rates."""
    kappa = 1000.0
    root = math.sqrt(kappa)
    problem = ravine(kappa, angle=angle)
    # Equal heights along both axes, so that the slower of the two roots shows at once.
    x = turn(angle) @ torch.tensor([1.0, 1.0 / root], dtype=torch.float64)
    plain = steps_to(sgd(lr=2 / (kappa + 1)), problem, x)
    assert plain == math.ceil(math.log(1e-4) / (2 * math.log((kappa - 1) / (kappa + 1))))
    ball = heavy_ball(lr=4 / (root + 1) ** 2, momentum=((root - 1) / (root + 1)) ** 2)
    nag = nesterov(lr=1 / kappa, momentum=(root - 1) / (root + 1))
    rate = math.log(1e-4) / (2 * math.log((root - 1) / (root + 1)))
    assert rate < steps_to(ball, problem, x) < 2.5 * rate
    assert steps_to(nag, problem, x) < plain / 5


def test_adam_sees_the_axes_and_the_heavy_ball_does_not() -> None:
    kappa = 1000.0
    root = math.sqrt(kappa)
    ball = heavy_ball(lr=4 / (root + 1) ** 2, momentum=((root - 1) / (root + 1)) ** 2)

    def steps(rule: Rule, angle: float) -> int:
        return steps_to(rule, ravine(kappa, angle=angle), turn(angle) @ torch.ones(2, dtype=torch.float64))

    assert steps(ball, 0.0) == steps(ball, math.pi / 4)
    assert steps(adam(lr=0.1), math.pi / 4) > 5 * steps(adam(lr=0.1), 0.0)


@pytest.mark.parametrize(
    ("rule", "fixed"),
    [
        (heavy_ball(lr=0.05, momentum=0.8, weight_decay=0.5), lambda h, b: h * b / (h + 0.5)),
        (
            heavy_ball(lr=0.05, momentum=0.8, weight_decay=0.5, decay="decoupled"),
            lambda h, b: h * b / (h + 0.5 * (1 - 0.8)),
        ),
        (ema(lr=0.05, momentum=0.8, weight_decay=0.5, decay="decoupled"), lambda h, b: h * b / (h + 0.5)),
        (nesterov(lr=0.05, momentum=0.8, weight_decay=0.5), lambda h, b: h * b / (h + 0.5)),
    ],
    ids=["l2", "decoupled heavy ball", "decoupled ema", "nesterov"],
)
def test_weight_decay_fixed_points(rule: Rule, fixed: Callable[[float, float], float]) -> None:
    h, b = 1.5, 3.0
    assert descend(rule, lambda x: h * (x - b), scalar(0.0), 2000)[-1].item() == pytest.approx(fixed(h, b), rel=1e-10)


@pytest.mark.parametrize("b", [5.0, -5.0])
def test_adamw_and_lion_stop_at_one_over_the_decay(b: float) -> None:
    """The step of both has size 1 at most, so |x| ends at 1 / decay where the optimum lies farther away."""
    for rule in (adamw(lr=0.01, beta2=0.95, weight_decay=0.5), lion(lr=0.01, weight_decay=0.5)):
        last = descend(rule, lambda x: x - b, scalar(0.0), 3000)[-1].item()
        assert last == pytest.approx(math.copysign(2.0, b), rel=1e-3)


def test_adam_takes_first_steps_of_the_step_size_whatever_the_scale() -> None:
    for scale in (1e-3, 1.0, 1e5):
        x = descend(adam(lr=0.01, eps=0.0), lambda x, s=scale: s * torch.ones_like(x), scalar(0.0), 20)[:, 0]
        torch.testing.assert_close(x, -0.01 * torch.arange(21, dtype=torch.float64), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("name", ["sgd", "heavy_ball", "ema", "nesterov"])
def test_server_momentum_does_not_move_the_fixed_point_of_federated_averaging(name: str) -> None:
    problem = heterogeneous_quadratics(3)
    lr_local, local_steps = 0.05, 10

    def pseudo_gradient(x: Tensor) -> Tensor:
        y = x.expand(10, -1)
        for _ in range(local_steps):
            y = y - lr_local * problem.client_gradients(y)
        return x - y.mean(0)

    end = descend(make_rule(name, lr=1.0), pseudo_gradient, torch.zeros(5, dtype=torch.float64), 1500)[-1]
    torch.testing.assert_close(end, problem.fedavg_fixed_point(lr=lr_local, steps=local_steps), rtol=1e-10, atol=1e-10)
    assert float((end - problem.optimum).norm()) > 1e-3
    torch.testing.assert_close(problem.fedavg_fixed_point(lr=lr_local, steps=1), problem.optimum)


PROBLEMS = {
    "quadratic": quadratic([1.0, 4.0, 9.0], optimum=[1.0, -2.0, 0.5]),
    "ravine": ravine(50.0, angle=0.7),
    "rosenbrock": Rosenbrock(4),
    "federated": heterogeneous_quadratics(1, clients=4, dimension=3),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_have_the_gradient_and_the_optimum_they_claim(name: str) -> None:
    problem = PROBLEMS[name]
    n = problem.optimum.numel()
    x = torch.randn(3, 2, n, generator=torch.Generator().manual_seed(5), dtype=torch.float64, requires_grad=True)
    values = problem.value(x)
    assert values.shape == (3, 2)
    (expected,) = torch.autograd.grad(values.sum(), x)
    torch.testing.assert_close(problem.gradient(x.detach()), expected, rtol=1e-10, atol=1e-10)
    assert float(problem.gradient(problem.optimum).norm()) < 1e-12
    at_optimum = problem.value(problem.optimum)
    assert bool((problem.value(problem.optimum + 0.1 * x.detach()) > at_optimum).all())
    for i in range(3):
        torch.testing.assert_close(problem.value(x[i, 1]), values[i, 1], rtol=1e-14, atol=0.0)


def test_quadratic_has_the_curvatures_it_was_given() -> None:
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    problem = quadratic([2.0, 0.5, 7.0], rotation=rotation)
    torch.testing.assert_close(
        torch.linalg.eigvalsh(problem.hessian), torch.tensor([0.5, 2.0, 7.0], dtype=torch.float64)
    )
    torch.testing.assert_close(problem.hessian @ rotation[:, 2], 7.0 * rotation[:, 2])
    with pytest.raises(ValueError, match="orthogonal"):
        quadratic([1.0, 2.0], rotation=torch.ones(2, 2))


def test_heterogeneous_quadratics_are_seeded_and_bounded() -> None:
    a, b, c = (heterogeneous_quadratics(seed, condition=30.0) for seed in (0, 0, 1))
    assert torch.equal(a.hessians, b.hessians)
    assert not torch.equal(a.hessians, c.hessians)
    curvatures = torch.linalg.eigvalsh(a.hessians)
    assert curvatures.shape == (10, 5)
    assert float(curvatures.min()) >= 1.0 - 1e-9
    assert float(curvatures.max()) <= 30.0 + 1e-9
    assert float(a.weights.sum()) == pytest.approx(1.0, abs=1e-15)
    mean = a.client_values(a.optimum.expand(10, 5)).mean()
    torch.testing.assert_close(a.value(a.optimum), mean)


def test_pseudo_gradient_of_local_descent_is_the_predicted_matrix() -> None:
    problem: FederatedQuadratic = heterogeneous_quadratics(2, clients=3, dimension=4)
    x = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x.expand(3, 4)
    for _ in range(7):
        y = y - 0.03 * problem.client_gradients(y)
    predicted = (problem.pseudo_hessians(lr=0.03, steps=7) @ (x - problem.centres).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(x - y, predicted, rtol=1e-12, atol=1e-12)
