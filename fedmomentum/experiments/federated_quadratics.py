"""Server momentum measured through the engine: quadratic clients as a Flower app, our strategy, grid and round loop.

The analogy's own experiment plays hundreds of federations at once by the bare rules; this one asks whether what users
run does the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from fedmomentum.analogies import linear, server_momentum
from fedmomentum.analogies.result import Claim
from fedmomentum.optim import make_rule
from fedmomentum.optim.problems import heterogeneous_quadratics
from fedmomentum.simulation.executor import InlineExecutor
from fedmomentum.simulation.foreign import AppGrid, AppWorker
from fedmomentum.simulation.loop import run_rounds
from fedmomentum.strategies import FedAvgM
from fedmomentum.strategies.cohort import UniformCohort
from fedmomentum.streams import torch_stream

COORDINATES = 1500
"""Independent copies of the federation in one model: as many coordinates with optima of their own."""
FORGET = 90
"""Rounds until the start is forgotten."""

Gradient = Callable[[int, Tensor], Tensor]
"""``gradient(client, x)``."""


def quadratic_app(gradient: Gradient, *, lr: float, steps: int) -> ClientApp:
    """Give a Flower app whose node i takes local SGD steps on a function of its own."""
    app = ClientApp()
    rule = make_rule("sgd", lr=lr)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        x = torch.from_numpy(message.content.array_records["arrays"]["x"].numpy().copy())
        state = rule.init({"x": x})
        for _ in range(steps):
            updates, state = rule.update({"x": gradient(client, x)}, state, {"x": x})
            x = x + updates["x"]
        numbers = MetricRecord({"num-examples": 1.0})
        return Message(
            RecordDict({"arrays": ArrayRecord({"x": Array(x.numpy())}), "metrics": numbers}), reply_to=message
        )

    return app


def federate(
    app: ClientApp,
    start: Tensor,
    *,
    clients: int,
    per_round: int,
    server_lr: float,
    momentum: float,
    rounds: int,
    seed: int,
) -> Tensor:
    """Give the model after each round, ``[rounds + 1, n]``: FedAvgM on the inline grid, in the loop of every run."""
    strategy = FedAvgM(
        server_learning_rate=server_lr,
        server_momentum=momentum,
        cohort=UniformCohort(count=per_round, minimum=1, seed=seed),
        seed=seed,
        fraction_evaluate=0.0,
        min_evaluate_nodes=0,
        min_train_nodes=1,
        min_available_nodes=1,
    )
    path = [start]
    executor = InlineExecutor(partial(AppWorker, app))

    def keep(server_round: int, arrays: Any) -> None:
        path.append(torch.from_numpy(arrays["x"].numpy().copy()))

    try:
        grid = AppGrid(executor, clients)
        run_rounds(strategy, grid, ArrayRecord({"x": Array(start.numpy())}), rounds, after_round=keep)
    finally:
        executor.close()
    return torch.stack(path)


def claims(
    *,
    clients: int,
    per_round: int,
    server_lr: float,
    momentum: float,
    local_lr: float,
    local_steps: int,
    curvature: float,
    rounds: int = 260,
    seed: int = 0,
    **_: Any,
) -> list[Claim]:
    """Measure stationary variance, stability and fixed point of FedAvgM on quadratic clients through the engine.

    Args:
        clients: N.
        per_round: S.
        server_lr: lr_s.
        momentum: of the server.
        local_lr: lr_l.
        local_steps: E.
        curvature: of all clients.
        rounds: over which moments are averaged, after the start is forgotten.
        seed: of the cohorts and of the clients' optima.
    """
    draw = torch_stream(seed, "federated quadratics")
    centres = torch.randn(clients, COORDINATES, generator=draw, dtype=torch.float64)
    spread = float(centres.var(0, correction=0).mean())
    numbers = {"clients": clients, "per_round": per_round, "local_lr": local_lr, "local_steps": local_steps}
    expected = server_momentum.predict(
        server_lr=server_lr,
        momentum=momentum,
        curvature=curvature,
        spread=spread,
        **numbers,  # type: ignore[arg-type]
    )
    app = quadratic_app(lambda client, x: curvature * (x - centres[client]), lr=local_lr, steps=local_steps)
    middle = centres.mean(0)
    found: list[Claim] = []
    if per_round < clients:
        common: dict[str, Any] = {"clients": clients, "per_round": per_round, "server_lr": server_lr, "seed": seed}
        variance = []
        for beta in (momentum, 0.0):
            path = federate(app, middle, momentum=beta, rounds=FORGET + rounds, **common)
            variance.append(float((path[FORGET:] - middle).square().mean()))
        found += [
            Claim("engine: variance of the model", expected.variance, variance[0], 0.15, "parameter^2"),
            Claim("engine: momentum over none", expected.ratio_at_lr, variance[0] / variance[1], 0.15),
        ]
    for factor in (0.98, 1.02):
        a = factor * expected.largest_lr * expected.pull
        path = federate(
            app, middle + 1, clients=clients, per_round=clients, server_lr=factor * expected.largest_lr,
            momentum=momentum, rounds=30, seed=seed,
        )  # fmt: skip
        measured = abs(linear.roots(*linear.fit((path[:, 0] - middle[0]).numpy()))[0])
        radius = linear.radius("heavy_ball", a, momentum)
        found.append(
            Claim(f"engine: radius at {factor} of the largest stable rate", radius, measured, 1e-6, "per round")
        )
    found.append(_fixed_point(momentum, local_steps, seed))
    return found


def _fixed_point(momentum: float, steps: int, seed: int) -> Claim:
    """Let unlike clients come to rest: beside the optimum, and where FedAvg rests, whatever the momentum."""
    problem, lr = heterogeneous_quadratics(seed), 0.05
    app = quadratic_app(lambda i, x: problem.hessians[i] @ (x - problem.centres[i]), lr=lr, steps=steps)
    rest = problem.fedavg_fixed_point(lr=lr, steps=steps)
    clients = len(problem.centres)
    rounds = math.ceil(2 * math.log(1e-5) / math.log(momentum)) if momentum > 0.5 else 200
    path = federate(
        app, torch.zeros_like(rest), clients=clients, per_round=clients, server_lr=1.0, momentum=momentum,
        rounds=min(rounds, 400), seed=seed,
    )  # fmt: skip
    bias = float((rest - problem.optimum).norm())
    end = float(np.linalg.norm((path[-1] - problem.optimum).numpy()))
    return Claim("engine: bias of averaging, with momentum", bias, end, 1e-3, "parameter", scale=max(bias, 1e-3))
