"""Algorithms with state on clients, where half of them take part in a round, against the papers' lines one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedmomentum.strategies import UniformCohort

from .quadratics import CLIENTS, PROBLEM, START, descend

LR, STEPS, ROUNDS, TAKING_PART = 0.05, 3, 8, 4
COHORT = UniformCohort(count=TAKING_PART, seed=3)


def gradient(client, y):
    return PROBLEM.hessians[client] @ (y - PROBLEM.centres[client])


def scaffold():
    """Algorithm 1 of the paper, option II."""
    x, c, own = START, torch.zeros_like(START), torch.zeros(CLIENTS, len(START), dtype=torch.float64)
    for server_round in range(1, ROUNDS + 1):
        way, change = torch.zeros_like(x), torch.zeros_like(x)
        for i in COHORT.choose(server_round, range(CLIENTS)):
            y = x
            for _ in range(STEPS):
                y = y - LR * (gradient(i, y) - own[i] + c)
            new = own[i] - c + (x - y) / (STEPS * LR)
            way, change = way + (y - x), change + (new - own[i])
            own[i] = new
        x, c = x + 0.8 * way / TAKING_PART, c + change / CLIENTS
        yield x


def feddyn(alpha=2.0):
    x, h, own = START, torch.zeros_like(START), torch.zeros(CLIENTS, len(START), dtype=torch.float64)
    for server_round in range(1, ROUNDS + 1):
        trained = []
        for i in COHORT.choose(server_round, range(CLIENTS)):
            y = x
            for _ in range(STEPS):
                y = y - LR * (gradient(i, y) - own[i] + alpha * (y - x))
            own[i] = own[i] - alpha * (y - x)
            trained.append(y)
        h = h - alpha / CLIENTS * sum(y - x for y in trained)
        x = sum(trained) / TAKING_PART - h / alpha
        yield x


def fedcm(alpha=0.3, eta=0.9):
    x, delta = START, torch.zeros_like(START)
    for server_round in range(1, ROUNDS + 1):
        mean = torch.zeros_like(x)
        for i in COHORT.choose(server_round, range(CLIENTS)):
            y = x
            for _ in range(STEPS):
                y = y - LR * (alpha * gradient(i, y) + (1 - alpha) * delta)
            mean = mean + (x - y) / TAKING_PART
        delta = mean / (LR * STEPS)
        x = x - eta * LR * STEPS * delta
        yield x


def mime(beta=0.7):
    x, m = START, torch.zeros_like(START)
    for server_round in range(1, ROUNDS + 1):
        cohort = COHORT.choose(server_round, range(CLIENTS))
        c = sum(gradient(i, x) for i in cohort) / TAKING_PART
        trained = []
        for i in cohort:
            y = x
            for _ in range(STEPS):
                y = y - LR * ((1 - beta) * (gradient(i, y) - gradient(i, x) + c) + beta * m)
            trained.append(y)
        x, m = sum(trained) / TAKING_PART, (1 - beta) * c + beta * m
        yield x


def fedadc(beta_g=0.6, beta_l=0.4, alpha=0.9):
    x, m = START, torch.zeros_like(START)
    for server_round in range(1, ROUNDS + 1):
        mean = torch.zeros_like(x)
        for i in COHORT.choose(server_round, range(CLIENTS)):
            y = x
            for _ in range(STEPS):
                y = y - LR * (gradient(i, y) + beta_l * m / STEPS)
            mean = mean + (x - y) / TAKING_PART
        m = mean / LR + (beta_g - beta_l) * m
        x = x - alpha * LR * m
        yield x


def fednag(beta=0.7):
    x, v = START, torch.zeros_like(START)
    for server_round in range(1, ROUNDS + 1):
        trained, velocities = [], []
        for i in COHORT.choose(server_round, range(CLIENTS)):
            y, u = x, v
            for _ in range(STEPS):
                g = gradient(i, y)
                u = beta * u + g
                y = y - LR * (g + beta * u)
            trained.append(y)
            velocities.append(u)
        x, v = sum(trained) / TAKING_PART, sum(velocities) / TAKING_PART
        yield x


def domo(mu_s=0.6, mu_l=0.5, fusion=0.7, spread=False):
    x, m = START, torch.zeros_like(START)
    for server_round in range(1, ROUNDS + 1):
        mean = torch.zeros_like(x)
        for i in COHORT.choose(server_round, range(CLIENTS)):
            y, u = (x if spread else x - fusion * LR * STEPS * m), torch.zeros_like(x)
            for _ in range(STEPS):
                u = mu_l * u + gradient(i, y)
                y = y - LR * u - (fusion * LR * m if spread else 0.0)
                mean = mean + u / STEPS / TAKING_PART
        m = mu_s * m + mean
        x = x - 0.9 * LR * STEPS * m
        yield x


EMA = {"rule": "ema", "momentum": 0.7}
HEAVY_BALL = {"rule": "heavy_ball", "momentum": 0.5, "server_momentum": 0.6, "fusion": 0.7, "server_learning_rate": 0.9}
TABLE = {
    "scaffold": ("scaffold", {"server_learning_rate": 0.8}, scaffold()),
    "feddyn": ("feddyn", {"alpha": 2.0}, feddyn()),
    "fedcm": ("fedcm", {"alpha": 0.3, "server_learning_rate": 0.9}, fedcm()),
    "mime": ("mime", EMA, mime()),
    "fedadc": (
        "fedadc",
        {"server_momentum": 0.6, "local_momentum": 0.4, "server_learning_rate": 0.9},
        fedadc(),
    ),
    "fednag": ("fednag", {"rule": "nesterov", "momentum": 0.7}, fednag()),
    "domo": ("domo", HEAVY_BALL, domo()),
    "domo spread": ("domo", {**HEAVY_BALL, "spread": True}, domo(spread=True)),
}


@pytest.mark.parametrize("case", TABLE)
def test_several_steps_of_some_clients_are_those_of_the_paper(case):
    name, options, reference = TABLE[case]
    path, _ = descend(name, rounds=ROUNDS, lr=LR, steps=STEPS, cohort=COHORT, **options)
    for found, expected in zip(path, reference, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)
