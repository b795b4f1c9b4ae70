"""Client halves that train as ever and tell the server more, or in another scale: FedExP, FedNova, FedNAG, FedSGHMC."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fedmomentum.clients.horizon import Horizon
from fedmomentum.clients.local import LocalUpdate, Place, scaled
from fedmomentum.optim.rule import Rule
from fedmomentum.protocol import ARRAYS, DRIFT, MOMENTUM, NORMALISER, SQUARES
from fedmomentum.trees import State, Tree, dot, sub


def fedexp(rule: Rule) -> LocalUpdate:
    """Give plain local training that also reports ``|x - y|^2``, from which the server takes its step size.

    Args:
        rule: the client's.

    Reference: arXiv:2301.09604.
    """

    def finish(params: Tree, state: State, place: Place) -> tuple[dict[str, Tree], State]:
        way = sub(place.anchor, params)
        return {DRIFT: {"squared": dot(way, way, leading=_leading(place))}}, {}

    return LocalUpdate(rule, finish=finish, by_tensor=True)


def fednova(rule: Rule) -> LocalUpdate:
    """Give plain local training whose update is sent divided by the number of gradients in it: ``x - (x - y) / a``.

    ``a`` is K for K steps of gradient descent, and counts what momentum adds to it; it is sent along.

    Args:
        rule: the client's, a linear one such as ``sgd`` or ``heavy_ball``.

    Raises:
        ValueError: the rule is not linear.

    Reference: arXiv:2007.07481.
    """
    horizon = Horizon(rule, "fednova")

    def finish(params: Tree, state: State, place: Place) -> tuple[dict[str, Tree], State]:
        a = horizon(place.steps, place.lr)
        share = scaled(sub(place.anchor, params), 1.0 / a)
        return {ARRAYS: sub(place.anchor, share), NORMALISER: {"steps": a}}, {}

    return LocalUpdate(rule, finish=finish, by_tensor=True)


def fednag(rule: Rule) -> LocalUpdate:
    """Give local training whose velocity starts at the server's mean velocity, and is sent back with the model.

    Args:
        rule: the client's, one with a velocity; the paper has ``nesterov``.

    Raises:
        ValueError: the rule has no velocity.

    Reference: arXiv:2009.08716.
    """
    if _VELOCITY not in rule.init({}):
        raise ValueError("fednag needs a rule with a velocity on the clients: nesterov, heavy_ball or ema")

    def begin(params: Tree, state: State, place: Place) -> tuple[Tree, State]:
        return params, state | {_VELOCITY: place.shared[MOMENTUM]}

    def finish(params: Tree, state: State, place: Place) -> tuple[dict[str, Tree], State]:
        return {MOMENTUM: state[_VELOCITY]}, {}

    return LocalUpdate(rule, begin=begin, finish=finish, by_tensor=True)


def fedsghmc(rule: Rule, *, correction: Literal["none", "mean", "coordinate"] = "coordinate") -> LocalUpdate:
    """Give plain local training that also sends what the server needs to know the noise of sampling clients.

    Args:
        rule: the client's.
        correction: ``coordinate`` sends the squares of ``x - y``, ``mean`` their sum, ``none`` nothing.

    Raises:
        ValueError: there is no such correction.

    Reference: arXiv:1402.4102, on a server.
    """
    if correction not in ("none", "mean", "coordinate"):
        raise ValueError(f"correction must be none, mean or coordinate, not '{correction}'")

    def finish(params: Tree, state: State, place: Place) -> tuple[dict[str, Tree], State]:
        way = sub(place.anchor, params)
        if correction == "mean":
            return {DRIFT: {"squared": dot(way, way, leading=_leading(place))}}, {}
        return {SQUARES: {name: d.square() for name, d in way.items()}}, {}

    return LocalUpdate(rule, finish=None if correction == "none" else finish, by_tensor=True)


_VELOCITY = "velocity"


def _leading(place: Place) -> int:
    """Give the number of leading axes of the client's trees: 1 where clients are stacked."""
    return place.steps.ndim if isinstance(place.steps, Tensor) else 0
