"""From measured numbers to recommended ones: closed forms of the analogies, and sentences about them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedmomentum.analogies import linear, spring
from fedmomentum.analogies.linear import Form

PLACES = 33
"""Curvatures between the flattest and the sharpest at which a round's pull is looked at."""
MARGIN = 0.5
"""Part of the largest stable step that is recommended at most: a network's curvature moves while it trains."""


@dataclass(frozen=True)
class Side:
    """A rule with its learning rate and momentum, a client's or the server's.

    Args:
        name: of the rule or strategy.
        form: of its momentum; None where it is no spring, such as Adam.
        lr: learning rate.
        momentum: beta.
        horizon: steps that its velocity lives: a client's local steps where it starts anew each round; the rounds.
    """

    name: str
    form: Form | None
    lr: float
    momentum: float
    horizon: float


@dataclass(frozen=True)
class Setting:
    """What a scenario has set.

    Args:
        client: the client's rule.
        server: the server's.
        steps: local steps of a typical client and round, E.
        batch: examples a step.
        clients: N, in all.
        cohort: S, a round.
        rounds: T.
    """

    client: Side
    server: Side
    steps: int
    batch: int
    clients: int
    cohort: int
    rounds: int


@dataclass(frozen=True)
class Findings:
    """What was measured; curvatures in loss/parameter^2.

    Args:
        where: in words, where and on what.
        sharpest_client: the largest sharpness of a client's own loss.
        median_client: the median of the clients' sharpnesses.
        sharpest: of the loss of all data together.
        sharpest_cohort: of the losses of a few cohorts: what the server may feel in a round.
        flattest: smallest resolved positive curvature of the loss of all data.
        noise_ratio: variance of a minibatch gradient over the squared length of the mean gradient, of a client; nan
            where clients take one step and have no noise to see.
        sampling_ratio: squared error of a round's mean update, as the mean over all clients, over the squared length of
            the mean itself; 0 where everyone takes part.
        coherence: squared length of all clients' mean update over the mean squared length of single ones.
        cost: gradients of one example's loss that measuring took.
    """

    where: str
    sharpest_client: float
    median_client: float
    sharpest: float
    sharpest_cohort: float
    flattest: float
    noise_ratio: float
    sampling_ratio: float
    coherence: float
    cost: float = 0.0


@dataclass(frozen=True)
class Line:
    """One piece of advice.

    Args:
        side: ``client``, ``server`` or ``measured``.
        topic: a word.
        text: a sentence with its numbers.
        numbers: the same numbers by name.
        recommended: settings by path with their recommended values; empty where the line recommends none.
    """

    side: str
    topic: str
    text: str
    numbers: dict[str, float]
    recommended: dict[str, float | str]


def tuned(
    form: Form, *, sharpest: float, flattest: float, horizon: float, noise: float = 0.0, margin: float = MARGIN
) -> tuple[float, float]:
    """Give the learning rate and momentum for a spectrum of curvatures, a horizon and a noise.

        lr = min(4/(sqrt L + sqrt mu)^2, margin limit(beta)/L)/(1 + noise),   s = max(sqrt(lr mu), 1/horizon)
        beta = (1 - s)^2;   ema: lr/(1 - beta) and the same beta
        nesterov: lr = min(1, margin 4/3)/L/(1 + noise),   beta = (1 - s)/(1 + s)

    The momentum damps critically the flattest direction that there is time for: a velocity that remembers ``1/s`` steps
    is of no use within fewer. Without noise, with all the time and margin 1 it is the heavy ball's optimum,
    ``beta = ((sqrt k - 1)/(sqrt k + 1))^2`` at condition number k.

    Args:
        form: of the momentum.
        sharpest: L, of the loss that the rule descends.
        flattest: mu, positive.
        horizon: steps that the velocity lives.
        noise: variance of the gradient over its squared mean; it divides the step (arXiv:1812.06162, equation 2.7).
        margin: part of the stable region that may be used, in (0, 1].

    Raises:
        ValueError: a curvature is not positive, the flattest is above the sharpest, or another number out of range.
    """
    if not (0 < flattest <= sharpest and horizon >= 1 and noise >= 0 and 0 < margin <= 1):
        raise ValueError(
            "need 0 < flattest <= sharpest, horizon >= 1, noise >= 0 and 0 < margin <= 1, not "
            f"{flattest}, {sharpest}, {horizon}, {noise}, {margin}"
        )

    def slow(lr: float) -> float:
        return min(1.0, max(math.sqrt(lr * flattest), 1 / horizon))

    if form == "nesterov":
        lr = min(1.0, margin * 4 / 3) / sharpest / (1 + noise)
        return lr, (1 - slow(lr)) / (1 + slow(lr))
    lr = 4 / (math.sqrt(sharpest) + math.sqrt(flattest)) ** 2
    for _ in range(60):  # the limit grows with the momentum, which falls with the rate: a fixed point, from above
        lr = min(lr, margin * linear.stability_limit("heavy_ball", (1 - slow(lr)) ** 2) / sharpest)
    lr /= 1 + noise
    beta = (1 - slow(lr)) ** 2
    return (lr / (1 - beta), beta) if form == "ema" else (lr, beta)


def pulled(form: Form, lr: float, momentum: float, curvature: float, steps: int) -> float:
    """Give q, the part of the way to its own optimum that a client goes in so many steps along one curvature.

    The server's spring has ``a = lr_server q``: with gradient descent ``q = 1 - (1 - lr h)^E``.
    """
    return 1 - float(linear.path(form, lr * curvature, momentum, steps)[-1])


def advise(setting: Setting, findings: Findings, *, margin: float = MARGIN) -> list[Line]:
    """Give the advice for a setting, from what was measured.

    Args:
        setting: what is set.
        findings: what was measured.
        margin: see :func:`tuned`.
    """
    return [
        *_measured(setting, findings),
        *_client(setting, findings, margin),
        *_server(setting, findings, margin),
    ]


def _measured(setting: Setting, f: Findings) -> Iterator[Line]:
    k = f.sharpest / f.flattest
    yield Line(
        "measured",
        "curvature",
        f"sharpest curvature {f.sharpest:.3g} of all data together, {f.sharpest_cohort:.3g} of a cohort, "
        f"{f.median_client:.3g} of a median client, {f.sharpest_client:.3g} of the sharpest one; the flattest that was "
        f"resolved is {f.flattest:.2g}: condition number {k:.3g}",
        {"sharpest": f.sharpest, "median_client": f.median_client, "sharpest_client": f.sharpest_client,
         "sharpest_cohort": f.sharpest_cohort,
         "flattest": f.flattest, "condition": k},
        {},
    )  # fmt: skip
    if math.isnan(f.noise_ratio):
        noise = "clients take one step a round, or their whole data a step: there is no minibatch noise to be seen"
    else:
        noise = f"the noise of a minibatch of {setting.batch} is {f.noise_ratio:.2g} times the squared mean gradient"
    yield Line("measured", "noise", noise, {"noise_ratio": f.noise_ratio}, {})
    yield Line(
        "measured",
        "heterogeneity",
        f"coherence {f.coherence:.2g} (1: clients go one way, {1 / setting.clients:.2g}: each its own); the mean "
        f"of {setting.cohort} of {setting.clients} clients is off by {f.sampling_ratio:.2g} times its squared length",
        {"coherence": f.coherence, "sampling_ratio": f.sampling_ratio},
        {},
    )


def standing(side: Side, curvature: float) -> tuple[str, dict[str, float]]:
    """Say where a setting stands in the sharpest direction: ``underdamped: zeta 0.11, rings with period 14 steps``."""
    assert side.form is not None
    here = spring.predict(lr=side.lr, curvature=curvature, momentum=side.momentum, form=side.form)
    numbers = {
        "damping": here.damping_ratio,
        "period": here.period,
        "stability": here.stability_margin,
        "critical_momentum": here.critical_momentum,
    }
    fades = f"shrinks the error to {here.radius:.2g} of it a step"
    words = {
        "underdamped": f"underdamped: zeta {here.damping_ratio:.2g}, rings with period {here.period:.3g} steps",
        "overdamped": f"overdamped: nothing rings, it {fades}"
        if side.momentum == 0
        else f"overdamped: zeta {here.damping_ratio:.2g}, creeps",
        "critical": "critically damped",
        "alternating": "alternating: it jumps across the valley with each step",
        "unstable": "unstable: it grows with each step",
    }[here.regime]
    return words, numbers


def _client(setting: Setting, f: Findings, margin: float) -> Iterator[Line]:
    client = setting.client
    if client.form is None:
        yield Line("client", "rule", f"'{client.name}' is no spring: its steps are not lr times gradients", {}, {})
        return
    limit = linear.stability_limit(client.form, client.momentum) / f.sharpest_client
    state, numbers = standing(client, f.sharpest_client)
    yield Line(
        "client",
        "stability",
        f"largest stable lr, the limit of '{client.name}' over the sharpest client's curvature, is {limit:.3g}; "
        f"lr {client.lr:g} is {client.lr / limit:.2g} of it",
        {"stable_lr": limit, "share": client.lr / limit},
        {},
    )
    yield Line("client", "damping", f"lr {client.lr:g}, momentum {client.momentum:g} is {state}", numbers, {})
    q = pulled(client.form, client.lr, client.momentum, f.sharpest, setting.steps)
    yield Line(
        "client",
        "pull",
        f"in {setting.steps} local step{'s' * (setting.steps > 1)} a client goes {q:.0%} of the way to its optimum, "
        "in the sharpest direction of all data",
        {"pull": q},
        {},
    )
    noise = 0.0 if math.isnan(f.noise_ratio) else f.noise_ratio
    form: Form = client.form
    lr, beta = tuned(
        form,
        sharpest=f.sharpest_client,
        flattest=min(f.flattest, f.sharpest_client),
        horizon=client.horizon,
        noise=noise,
        margin=margin,
    )
    if client.name == "sgd":
        beta = 0.0
        lr = margin * 2 / f.sharpest_client / (1 + noise)
    yield Line(
        "client",
        "recommended",
        f"lr {lr:.3g}{'' if client.name == 'sgd' else f', momentum {beta:.3g}'}: at most {margin:g} of the stable "
        f"region, divided by 1 + noise ratio = {1 + noise:.2g}; "
        + (
            "without momentum there is nothing to damp"
            if client.name == "sgd"
            else f"the momentum damps critically the flattest direction that {client.horizon:g} steps have time for"
        ),
        {"lr": lr, "momentum": beta},
        {"client.optimizer.lr": lr, **({} if client.name == "sgd" else {"client.optimizer.momentum": beta})},
    )


def _server(setting: Setting, f: Findings, margin: float) -> Iterator[Line]:
    client, server = setting.client, setting.server
    if client.form is None:
        yield Line("server", "spectrum", "the pull of clients that are no springs has no closed form", {}, {})
        return
    between = np.geomspace(
        f.flattest, f.sharpest_cohort, PLACES
    )  # with local momentum the ends need not be the extremes
    pulls = [pulled(client.form, client.lr, client.momentum, float(h), setting.steps) for h in between]
    top, flat = max(pulls), min(pulls)
    if not (math.isfinite(top) and flat > 0 and 0 < top < 4):
        yield Line(
            "server",
            "spectrum",
            f"with these clients a round goes {flat:.3g} to {top:.3g} of the way: mend the clients first",
            {"sharpest_pull": top, "flattest_pull": flat},
            {},
        )
        return
    yield Line(
        "server",
        "spectrum",
        f"over the curvatures of a cohort, a round of these clients goes {flat:.2g} to {top:.2g} of the way: to the "
        f"server that is a spectrum of condition number {top / flat:.3g}",
        {"sharpest_pull": top, "flattest_pull": flat, "condition": top / flat},
        {},
    )
    if server.form is not None:
        state, numbers = standing(server, top)
        limit = linear.stability_limit(server.form, server.momentum) / top
        heat = (1 + server.momentum) / (1 - server.momentum) if server.form == "heavy_ball" else 1.0
        yield Line(
            "server",
            "damping",
            f"lr {server.lr:g}, momentum {server.momentum:g} is {state}; {server.lr / limit:.2g} of the stable region"
            + (f"; at this lr the momentum carries {heat:.3g} times the cohorts' noise" if server.momentum else ""),
            {**numbers, "heat": heat},
            {},
        )
    else:
        yield Line("server", "damping", f"'{server.name}' is no spring: what follows is for 'fedavgm'", {}, {})
    lr, beta = tuned(
        server.form or "heavy_ball",
        sharpest=top,
        flattest=flat,
        horizon=server.horizon,
        noise=f.sampling_ratio,
        margin=margin,
    )
    named = server.name == "fedavgm"
    yield Line(
        "server",
        "recommended",
        f"lr {lr:.3g}, momentum {beta:.3g}{'' if named else ' with fedavgm'}: at most {margin:g} of the stable region, "
        f"divided by 1 + sampling ratio = {1 + f.sampling_ratio:.2g}; the momentum damps critically the flattest "
        f"direction that {server.horizon:g} rounds have time for",
        {"lr": lr, "momentum": beta},
        {**({} if named else {"strategy.name": "fedavgm"}), "strategy.server_learning_rate": lr,
         "strategy.server_momentum": beta},
    )  # fmt: skip
