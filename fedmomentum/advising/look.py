"""Measure what advice is made of: build a scenario, ask a few clients, and look at the loss of all data together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum.advising.advice import Findings, Setting, Side
from fedmomentum.analogies import server_momentum
from fedmomentum.analogies.linear import Form
from fedmomentum.build import Federation, build
from fedmomentum.clients.block import Arrays, BlockTask
from fedmomentum.clients.curvature import Bend, bend, client_loss, felt, twice_differentiable
from fedmomentum.clients.measuring import FORM_OF, Measure
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.clients.worker import Worker
from fedmomentum.errors import UserError
from fedmomentum.simulation.executor import InlineExecutor
from fedmomentum.simulation.flower import to_arrays
from fedmomentum.simulation.loop import RoundStoppedError, run_rounds
from fedmomentum.streams import stream

if TYPE_CHECKING:
    from fedmomentum.scenario import FederatedScenario

POOLED = 1024
"""Examples that the loss of all data together is measured on."""
STEPS = 24
"""Hessian-vector products on it."""
UPDATES = 100
"""Clients whose updates are compared: training once is cheap beside measuring curvature."""
COHORTS = 3
"""Cohorts whose own losses are looked at: what the server feels in a round is not the mean over all clients."""


def setting_of(federation: Federation) -> Setting:
    """Give what a scenario has set, as numbers."""
    scenario, spec, sizes = federation.scenario, federation.spec, np.asarray(federation.data.sizes)
    some = sizes[sizes > 0]
    steps = int(np.median([spec.steps_for(int(size)) for size in some]))
    clients = len(sizes)
    participation = scenario.participation
    share = getattr(participation, "fraction", None) or getattr(participation, "probability", None)
    count = getattr(participation, "count", None) or max(1, round((share or 0.1) * clients))
    count = min(int(count), clients)
    lives = steps * (max(1.0, scenario.rounds * count / clients) if spec.keep_state else 1.0)
    name, hyper = str(spec.optimizer["name"]), spec.optimizer
    momentum = float(hyper.get("momentum", 0.0 if name == "sgd" else 0.9)) if name in FORM_OF else 0.0
    return Setting(
        client=Side(name, FORM_OF.get(name), float(hyper["lr"]), momentum, float(lives)),
        server=_server(scenario),
        steps=steps,
        batch=int(min(spec.batch_size or math.inf, np.median(some))),
        clients=clients,
        cohort=count,
        rounds=scenario.rounds,
    )


def _server(scenario: FederatedScenario) -> Side:
    strategy: Any = scenario.strategy
    horizon = float(scenario.rounds)
    if strategy.name == "fedavgm":
        damped = strategy.dampening
        form: Form | None = None if damped else strategy.form
        return Side("fedavgm", form, strategy.server_learning_rate, strategy.server_momentum, horizon)
    if strategy.name == "fedopt" and strategy.rule.name in FORM_OF:
        rule = strategy.rule
        return Side("fedopt", FORM_OF[rule.name], rule.lr, getattr(rule, "momentum", 0.0), horizon)
    plain = strategy.name in ("fedavg", "fedprox")
    return Side(strategy.name, "heavy_ball" if plain else None, 1.0, 0.0, horizon)


def look(
    scenario: FederatedScenario, *, clients: int = 16, rounds: int = 10, model: Mapping[str, Tensor] | None = None
) -> tuple[Setting, Findings]:
    """Build a scenario and measure it: at the model it starts from and after a few rounds, or at one that is given.

    Args:
        scenario: of one arm.
        clients: whose curvature is measured, drawn by the stream "advise"; all where there are no more.
        rounds: that are run first, inline, to see how curvature moves; 0: only the model at the start.
        model: where to look instead of both.

    Returns:
        What is set, and what was measured: of two places, the larger curvatures and the later ones of all else.

    Raises:
        UserError: something that the scenario names is not there, it has fewer than two clients with data, or the model
            has no positive curvature.
    """
    federation = build(scenario)
    setting = setting_of(federation)
    sizes = np.asarray(federation.data.sizes)
    able = np.flatnonzero(sizes > 0)
    if len(able) < 2:
        raise UserError(f"{scenario.name}: advice about a federation needs at least two clients with data")
    asked = sorted(int(c) for c in stream(scenario.seed, "advise").choice(able, min(max(clients, 2), len(able)), False))
    if model is not None:
        places = [({name: x.detach().cpu().numpy() for name, x in model.items()}, "at the saved model")]
    else:
        places = [(to_arrays(federation.initial_arrays()), "at the first model")]
        if rounds:
            later = _after(federation, rounds)
            places += [later] if later is not None else []
    found = []
    for number, (arrays, where) in enumerate(places):
        try:
            found.append(_measure(federation, setting, asked, arrays, where))
        except UserError:
            if number == 0:
                raise  # a later place that cannot be measured is one where the scenario has diverged
    last = found[-1]
    merged = replace(
        last,
        where=" and ".join(f.where for f in found) + f", on {len(asked)} of {setting.clients} clients",
        sharpest_client=max(f.sharpest_client for f in found),
        median_client=max(f.median_client for f in found),
        sharpest=max(f.sharpest for f in found),
        sharpest_cohort=max(f.sharpest_cohort for f in found),
        cost=sum(f.cost for f in found),
    )
    return setting, merged


def _after(federation: Federation, rounds: int) -> tuple[Arrays, str] | None:
    """Run a few rounds as the scenario has them; None where they diverge."""
    executor = InlineExecutor(partial(Worker, federation.spec), federation.data, threads=federation.spec.threads)
    try:
        result = run_rounds(federation.strategy, federation.grid(executor), federation.initial_arrays(), rounds)
    except RoundStoppedError:
        return None
    finally:
        executor.close()
    arrays = to_arrays(result.arrays)
    finite = all(np.isfinite(a).all() for a in arrays.values())
    return (arrays, f"after {rounds} rounds") if finite else None


def _measure(federation: Federation, setting: Setting, asked: list[int], arrays: Arrays, where: str) -> Findings:
    spec = replace(
        federation.spec,
        measure=Measure(("curvature", "noise"), lanczos_steps=12),
        method="local_sgd",
        method_options={},
        adapt=None,
        keep_state=False,
        batch_norm="average" if federation.spec.batch_norm == "local" else federation.spec.batch_norm,
    )
    worker = Worker(spec, federation.data)
    result = worker.run(BlockTask(0, "train", 1, tuple(asked), reduce=False), {"arrays": arrays})
    assert result is not None
    if len(result.members["client"]) < 2:
        reason = result.failures[0].reason if result.failures else "fewer than two clients answered"
        raise UserError(f"{federation.scenario.name}, {where}: clients cannot train: {reason}")
    table = {name: np.asarray(column) for name, column in result.members.items()}
    updates = _updates(federation, spec, arrays)
    sharp = np.array([felt(federation.spec, float(h)) for h in table["probe_curvature"] if math.isfinite(h)])
    pooled, flattest, cost = _pooled(federation, worker, arrays)
    cohort, more = _cohorts(federation, worker, arrays, setting) if setting.cohort < setting.clients else (pooled, 0.0)
    if not (len(sharp) and sharp.max() > 0 and pooled > 0):
        raise UserError(
            f"{federation.scenario.name}, {where}: no positive curvature was found, so there is no spring here"
        )
    sampling, coherence = _agreement(updates, setting)
    noise, signal = table["probe_noise"], table["probe_signal"]
    seen = np.isfinite(noise)
    ratio = float(noise[seen].mean() / max(signal[seen].mean(), noise[seen].mean() * 1e-3)) if seen.any() else math.nan
    return Findings(
        where=where,
        sharpest_client=float(sharp.max()),
        median_client=float(np.median(sharp)),
        sharpest=pooled,
        sharpest_cohort=max(cohort, pooled),
        flattest=flattest,
        noise_ratio=ratio,
        sampling_ratio=sampling,
        coherence=coherence,
        cost=cost + more + float(table["probe_gradients"].sum()),
    )


def _updates(federation: Federation, spec: ClientSpec, arrays: Arrays) -> Tensor:
    """Give what a round's training makes of the model on many clients, old minus new, ``[n, P]``: nothing is probed."""
    worker = Worker(replace(spec, measure=Measure()), federation.data)
    able = np.flatnonzero(np.asarray(federation.data.sizes) > 0)
    rng = stream(spec.seed, "advise updates")
    some = sorted(int(c) for c in rng.choice(able, min(UPDATES, len(able)), replace=False))
    result = worker.run(BlockTask(0, "train", 1, tuple(some), reduce=False), {"arrays": arrays})
    assert result is not None
    names = list(worker.network.params)
    old = np.concatenate([arrays[name].ravel() for name in names]).astype(np.float64)
    new = [np.concatenate([each["arrays"][name].ravel() for name in names]) for each in result.each or []]
    return torch.from_numpy(old - np.stack(new))


def _pooled(federation: Federation, worker: Worker, arrays: Arrays) -> tuple[float, float, float]:
    """Give the sharpest and the flattest resolved curvature of the loss of all data together, and what it cost."""
    spec, order = federation.spec, federation.data.partition.order
    chosen = stream(spec.seed, "advise pooled").choice(order, min(POOLED, len(order)), replace=False)
    found = _bend(federation, worker, arrays, chosen, STEPS)
    values = found.ritz.values
    resolved = values[(values > 0) & (values > found.ritz.bounds) & (values > 1e-7 * max(values[-1], 0.0))]
    if not len(resolved):
        return float(values[-1]), math.nan, found.cost
    return felt(spec, float(resolved[-1])), felt(spec, float(resolved[0])), found.cost


def _cohorts(federation: Federation, worker: Worker, arrays: Arrays, setting: Setting) -> tuple[float, float]:
    """Give the sharpest curvature of the losses of a few cohorts, and the cost: a server feels another each round."""
    data, spec = federation.data, federation.spec
    able = np.flatnonzero(np.asarray(data.sizes) > 0)
    sharpest, cost = 0.0, 0.0
    for number in range(COHORTS):
        rng = stream(spec.seed, "advise cohort", number=number)
        cohort = rng.choice(able, min(setting.cohort, len(able)), replace=False)
        held = np.concatenate([data.train_indices(int(client)) for client in sorted(cohort)])
        chosen = rng.choice(held, min(POOLED, len(held)), replace=False)
        found = _bend(federation, worker, arrays, chosen, STEPS // 2)
        sharpest, cost = max(sharpest, felt(spec, found.ritz.largest)), cost + found.cost
    return sharpest, cost


def _bend(federation: Federation, worker: Worker, arrays: Arrays, chosen: NDArray[np.integer[Any]], steps: int) -> Bend:
    """Measure the curvature of the mean loss over some examples."""
    data, network, spec = federation.data, worker.network, federation.spec
    rows = np.sort(chosen)
    x, y = (torch.from_numpy(np.ascontiguousarray(a[rows])).to(spec.device) for a in (data.x, data.y))
    network.load({name: torch.from_numpy(np.array(a)) for name, a in arrays.items()})
    start = {name: tensor.clone() for name, tensor in network.tree().items()}
    loss = client_loss(network, start, x, y, frozen=spec.batch_norm == "freeze")
    params = {name: start[name] for name in network.params}
    twice = twice_differentiable(network.module)
    return bend(loss, params, steps=steps, seed=spec.seed, examples=len(y), twice=twice)


def _agreement(updates: Tensor, setting: Setting) -> tuple[float, float]:
    """Give the sampling ratio of a cohort and the coherence of all clients, from the updates of some of them.

    With D the mean of n updates, ``v = sum |D_i - D|^2/(n - 1)`` and ``|D|^2 - (1/n - 1/N) v`` for all N clients.
    """
    n, total, cohort = len(updates), setting.clients, setting.cohort
    drift = server_momentum.probe(updates, population=total, momentum=0.0)
    power = float((updates**2).sum(1).mean())
    spread = float(((updates - updates.mean(0)) ** 2).sum()) / (n - 1) * (total - 1) / total
    size = max(drift.signal, 1e-3 * power)
    noise = spread * (total - cohort) / (cohort * (total - 1))
    return noise / size, min(1.0, size / power)
