"""Client halves whose local steps are those of a Langevin chain: FALD, FSGLD, DG-LMC.

All of them sample ``exp(-f / T)`` of the mean loss ``f = sum_i p_i f_i``: with n examples in the federation ``T = 1 /
n`` samples the posterior. ``p_i`` is a client's share of the examples, or one in so many clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fedmomentum.clients.local import LocalUpdate, Place, scaled
from fedmomentum.optim.rule import Rule
from fedmomentum.protocol import ARRAYS, FRESH, PULL, SAMPLING, SLOPE
from fedmomentum.samplers.noise import fold, normal_like
from fedmomentum.trees import State, Tree, add, sub, zeros_like

_NOISE = "langevin"
"""Slot of the rule's state: keys, count and standard deviations of the noise of this round."""
_SURROGATE = "surrogate/"
_SUMS, _OWN = ("mean_y", "mean_g", "yy", "yg"), ("own_slope", "own_pull")
_DOUBT = 4.0
"""Steps without a slope that a surrogate begins with."""
_LOCAL, _KNOWN = "local", "known"


class Spread(NamedTuple):
    """Standard deviations of the noise of one local step: what a client has alone, and what all share."""

    own: Tensor
    common: Tensor


def probability(place: Place, examples: float | None) -> Tensor:
    """Give ``p_i``, of one client ``[]`` or of stacked ones ``[K]``.

    Args:
        place: what the client knows; the server has sent how many clients there are.
        examples: of all clients together; None counts every client alike.
    """
    count = torch.as_tensor(place.examples, dtype=torch.float64)
    clients = place.shared[SAMPLING]["clients"].double()
    return torch.ones_like(count) / clients if examples is None else count / examples


def with_noise(rule: Rule, spread: Callable[[Place], Spread]) -> tuple[Rule, Callable[[State, Place], State]]:
    """Give a rule whose updates carry noise, and the function that sets the noise of a round in its state.

    Args:
        rule: what the noise is added to.
        spread: the standard deviations in a round.
    """

    def init(params: Mapping[str, Tensor], /) -> State:
        zero = torch.zeros((), dtype=torch.int64)
        none = torch.zeros((), dtype=torch.float64)
        noise = {"key": zero, "common_key": zero, "count": zero, "own": none, "common": none}
        return rule.init(params) | {_NOISE: noise}

    def begin(state: State, place: Place) -> State:
        size = spread(place)
        key = torch.as_tensor(place.key, dtype=torch.int64)
        return state | {
            _NOISE: {
                "key": key,
                "common_key": torch.full_like(key, place.common_key),
                "count": torch.zeros_like(key),
                "own": size.own.double().expand(key.shape),
                "common": size.common.double().expand(key.shape),
            }
        }

    def update(grads: Mapping[str, Tensor], state: State, params: Mapping[str, Tensor], /) -> tuple[Tree, State]:
        noise = state[_NOISE]
        updates, inner = rule.update(grads, {slot: tree for slot, tree in state.items() if slot != _NOISE}, params)
        for key, size in (("key", noise["own"]), ("common_key", noise["common"])):
            if bool((size > 0).any()):
                updates = add(updates, scaled(normal_like(fold(noise[key], noise["count"]), updates), size))
        return updates, inner | {_NOISE: noise | {"count": noise["count"] + 1}}

    return Rule(init, update), begin


def fald(
    rule: Rule, *, temperature: float = 1.0, correlation: float = 0.0, examples: float | None = None
) -> LocalUpdate:
    """Give Langevin steps ``y <- y - lr g(y) + sqrt(2 lr rho^2 T) xi + sqrt(2 lr (1 - rho^2) T / p_c) xi_c``.

    ``xi`` is the same on every client. ``p_c`` is relative to the cohort, so that the mean of what comes back has noise
    of temperature T, however many clients take part.

    Args:
        rule: the client's; gradient descent.
        temperature: T, at least 0.
        correlation: rho in [0, 1], how much of the noise all clients share.
        examples: of all clients together; None counts every client alike.

    Raises:
        ValueError: a number is out of its range.

    Reference: arXiv:2112.05120.
    """
    if temperature < 0 or not 0 <= correlation <= 1:
        raise ValueError(f"need temperature >= 0 and correlation in [0, 1], not {temperature} and {correlation}")

    def spread(place: Place) -> Spread:
        of = place.shared[SAMPLING]
        share = probability(place, examples) * of["clients"].double() / of["cohort"].double()
        heat = 2.0 * place.lr * temperature
        own = (heat * (1.0 - correlation**2) / share).sqrt()
        return Spread(own, torch.as_tensor((heat * correlation**2) ** 0.5, dtype=torch.float64))

    noisy, set_noise = with_noise(rule, spread)
    return LocalUpdate(noisy, begin=lambda params, state, place: (params, set_noise(state, place)))


def fsgld(
    rule: Rule, *, temperature: float = 1.0, conducive: bool = True, examples: float | None = None
) -> LocalUpdate:
    """Give Langevin steps along ``N p_i (g(y) - (a_i y - b_i)) + A y - B``, an unbiased estimate of the gradient of f.

    ``a_i y - b_i`` is the gradient of the client's Gaussian surrogate, and ``A = sum p_j a_j``, ``B = sum p_j b_j`` are
    the server's sums of them: where surrogates are right, every client descends the gradient of the whole. A client
    fits its surrogate to its own steps, ``a_i = Cov(g, y) / Var(y)`` coordinate by coordinate (by Stein's identity the
    precision of its law, times T), over all rounds in which it took part. It begins flat, and believes in a slope as
    steps bear it out; until every client has one, the surrogates are not used.

    Args:
        rule: the client's; gradient descent.
        temperature: T, at least 0.
        conducive: without, it is DSGLD: the surrogates are zero.
        examples: of all clients together; None counts every client alike.

    Raises:
        ValueError: the temperature is negative.

    Reference: arXiv:2004.11231.
    """
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, not {temperature}")

    def spread(place: Place) -> Spread:
        noise = 2.0 * place.lr * temperature * place.shared[SAMPLING]["cohort"].double()
        return Spread(noise.sqrt(), torch.zeros((), dtype=torch.float64))

    noisy, set_noise = with_noise(rule, spread)
    slots = (*_SUMS, *_OWN)

    def scaled_by(place: Place) -> Tensor:
        return probability(place, examples) * place.shared[SAMPLING]["clients"].double()

    if not conducive:
        return LocalUpdate(
            noisy,
            direction=lambda grads, params, place: scaled(grads, scaled_by(place)),
            begin=lambda params, state, place: (params, set_noise(state, place)),
        )

    def init(params: Mapping[str, Tensor], /) -> State:
        trees = {name: zeros_like(params) for name in (*slots, "slope", "pull")}
        zero = torch.zeros((), dtype=torch.float64)
        number = {"count": zero, "weight": zero + 1.0, "on": zero}
        return noisy.init(params) | _named(trees | {"number": number})

    def begin(params: Tree, state: State, place: Place) -> tuple[Tree, State]:
        kept = {name: place.memory[_SURROGATE + name] for name in slots}
        of = place.shared[SAMPLING]
        number = {
            "count": place.memory[_SURROGATE + "number"]["count"],
            "weight": scaled_by(place),
            "on": (place.shared[FRESH]["count"] >= of["clients"]).double(),
        }
        sums = {"slope": place.shared[SLOPE], "pull": place.shared[PULL]}
        return params, set_noise(state, place) | _named(kept | sums | {"number": number})

    def update(grads: Mapping[str, Tensor], state: State, params: Mapping[str, Tensor], /) -> tuple[Tree, State]:
        of, inner = _unnamed(state), {slot: tree for slot, tree in state.items() if not slot.startswith(_SURROGATE)}
        number = of["number"]
        own = sub(grads, scaled(_affine(of["own_slope"], of["own_pull"], params), number["on"]))
        rest = scaled(_affine(of["slope"], of["pull"], params), number["on"])
        estimate = add(scaled(own, number["weight"]), rest)
        updates, inner = noisy.update(estimate, inner, params)
        return updates, inner | _named(of | _taken_in(of, grads, params))

    def finish(params: Tree, state: State, place: Place) -> tuple[dict[str, Tree], State]:
        of = _unnamed(state)
        # As if so many steps more, of the size of the noise, had shown no slope: few steps do not say much.
        doubt = _DOUBT * 2.0 * place.lr * temperature
        most = 1.0 / (place.lr * scaled_by(place).clamp(min=1.0))
        slope = {}
        for name, yy in of["yy"].items():
            fitted = torch.where(yy > 0, of["yg"][name] / (yy + doubt), 0.0).clamp(min=0.0)
            slope[name] = torch.minimum(fitted, scaled({name: torch.ones_like(yy)}, most)[name])
        pull = {name: a * of["mean_y"][name] - of["mean_g"][name] for name, a in slope.items()}
        p = probability(place, examples)
        fresh = (place.memory[_SURROGATE + "number"]["count"] == 0).double()
        sent = {SLOPE: scaled(sub(slope, of["own_slope"]), p), PULL: scaled(sub(pull, of["own_pull"]), p)}
        sent[FRESH] = {"count": fresh}
        keep = {name: of[name] for name in _SUMS} | {"own_slope": slope, "own_pull": pull}
        return sent, _named(keep | {"number": {"count": of["number"]["count"]}})

    def remember(params: Tree) -> State:
        device = next(iter(params.values())).device
        none = {"count": torch.zeros((), dtype=torch.float64, device=device)}
        return _named({slot: zeros_like(params) for slot in slots} | {"number": none})

    return LocalUpdate(Rule(init, update), begin=begin, finish=finish, remember=remember)


def _named(slots: Mapping[str, Tree]) -> State:
    return {_SURROGATE + slot: tree for slot, tree in slots.items()}


def _unnamed(state: State) -> State:
    return {slot.removeprefix(_SURROGATE): tree for slot, tree in state.items() if slot.startswith(_SURROGATE)}


def _affine(slope: Tree, pull: Tree, params: Mapping[str, Tensor]) -> Tree:
    return {name: slope[name] * y - pull[name] for name, y in params.items()}


def _taken_in(of: Mapping[str, Tree], grads: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> State:
    """Give the running means and sums of squares of points and gradients, with one more pair taken in (Welford)."""
    count = of["number"]["count"] + 1
    before = sub(params, of["mean_y"])
    mean_y = add(of["mean_y"], scaled(before, 1.0 / count))
    mean_g = add(of["mean_g"], scaled(sub(grads, of["mean_g"]), 1.0 / count))
    yy = {name: of["yy"][name] + x * (params[name] - mean_y[name]) for name, x in before.items()}
    yg = {name: of["yg"][name] + x * (grads[name] - mean_g[name]) for name, x in before.items()}
    return {"mean_y": mean_y, "mean_g": mean_g, "yy": yy, "yg": yg, "number": of["number"] | {"count": count}}


def dglmc(
    rule: Rule, *, temperature: float = 1.0, tolerance: float = 1e-2, examples: float | None = None
) -> LocalUpdate:
    """Give Langevin steps of a variable ``z_i`` that the client keeps, tied to the model by a spring.

    ``z <- z - lr (g(z) + (T / p_i) (z - x) / rho) + sqrt(2 lr T / p_i) xi``: the chain of ``exp(-p_i f_i / T - |z -
    x|^2 / (2 rho))`` with step size ``lr T / p_i``. It sends what ``z_i`` changed by, from zero where it is new, and
    whether it is.

    Args:
        rule: the client's; gradient descent.
        temperature: T, positive.
        tolerance: rho, the variance of the tie, in units of the parameters squared.
        examples: of all clients together; None counts every client alike.

    Raises:
        ValueError: a number is out of its range.

    Reference: arXiv:2106.06300.
    """
    if temperature <= 0 or tolerance <= 0:
        raise ValueError(f"need temperature > 0 and tolerance > 0, not {temperature} and {tolerance}")

    def spread(place: Place) -> Spread:
        own = (2.0 * place.lr * temperature / probability(place, examples)).sqrt()
        return Spread(own, torch.zeros((), dtype=torch.float64))

    def tied(grads: Mapping[str, Tensor], state: State, params: Mapping[str, Tensor], /) -> tuple[Tree, State]:
        tie, anchor = state["tie"], state["anchor"]
        updates, inner = rule.update(grads, {s: t for s, t in state.items() if s not in ("tie", "anchor")}, params)
        pull = scaled(sub(params, anchor), tie["strength"])
        return sub(updates, pull), inner | {"tie": tie, "anchor": anchor}

    def init(params: Mapping[str, Tensor], /) -> State:
        strength = {"strength": torch.zeros((), dtype=torch.float64)}
        return rule.init(params) | {"tie": strength, "anchor": dict(params)}

    noisy, set_noise = with_noise(Rule(init, tied), spread)

    def begin(params: Tree, state: State, place: Place) -> tuple[Tree, State]:
        strength = place.lr * temperature / probability(place, examples) / tolerance
        tie: State = {"tie": {"strength": strength}, "anchor": dict(place.anchor)}
        return place.memory[_LOCAL], set_noise(state, place) | tie

    def finish(params: Tree, state: State, place: Place) -> tuple[dict[str, Tree], State]:
        known = place.memory[_KNOWN]["count"]
        change = sub(params, scaled(place.memory[_LOCAL], known))
        kept: State = {
            _LOCAL: {name: x.clone() for name, x in params.items()},
            _KNOWN: {"count": torch.ones_like(known)},
        }
        return {ARRAYS: change, FRESH: {"count": 1.0 - known}}, kept

    def remember(params: Tree) -> State:
        device = next(iter(params.values())).device
        return {_LOCAL: dict(params), _KNOWN: {"count": torch.zeros((), dtype=torch.float64, device=device)}}

    return LocalUpdate(noisy, begin=begin, finish=finish, remember=remember)
