"""Hyperparameters that a client sets from its own curvature: critically damped, or safely inside the stable region."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedmomentum.analogies import linear
from fedmomentum.clients.local import LocalUpdate, Place
from fedmomentum.clients.measuring import FORM_OF, Adapt
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.errors import UserError
from fedmomentum.optim.registry import make_rule
from fedmomentum.optim.rule import Rule
from fedmomentum.trees import State, Tree

HYPER = "hyper"
"""Slot of an adaptive rule's state that holds its hyperparameters: one number a model, or one a stacked client."""

COUNT_GRADIENTS = ("fednova", "domo", "mime", "mimelite")
"""Client halves that need one learning rate and momentum for all clients, or have the server's state."""


def chosen(adapt: Adapt, rule: str, curvature: float, *, lr: float, momentum: float) -> tuple[float, float]:
    """Give the learning rate and momentum for a curvature h; what is not adapted stays as it is.

        lr = margin limit(beta)/h, limit 2 (1 + beta), nesterov 2 (1 + beta)/(1 + 2 beta), ema 2 (1 + beta)/(1 - beta)
        beta = (1 - sqrt(lr h))^2, nesterov (1 - sqrt(lr h))/(1 + sqrt(lr h)), ema ((1 - lr h)/(1 + lr h))^2

    Both at once: the learning rate is the margin of plain descent's limit 2/h, then the momentum damps that critically.
    Where ``lr h >= 1`` plain descent already overshoots and the momentum is 0; where no positive curvature was found,
    both are the largest allowed.

    Args:
        adapt: what is set, and its bounds.
        rule: name of the client's rule.
        curvature: h that the rule feels, loss per parameter^2.
        lr: where it is not adapted.
        momentum: where it is not.
    """
    form = FORM_OF[rule]
    bent = math.isfinite(curvature) and curvature > 0
    if adapt.lr:
        limit = linear.stability_limit(form, 0.0 if adapt.momentum else momentum)
        lr = min(adapt.max_lr, adapt.margin * limit / curvature) if bent else adapt.max_lr
    if adapt.momentum:
        a = lr * curvature
        if not bent:
            momentum = adapt.max_momentum
        else:
            momentum = min(adapt.max_momentum, linear.critical_momentum(form, a)) if a < 1 else 0.0
    return lr, momentum


def adaptive_rule(name: str, hyper: Mapping[str, Any], factor: float = 1.0) -> Rule:
    """Make a rule whose learning rate and momentum are in its state, where each client may have its own.

    Args:
        name: of the rule.
        hyper: its hyperparameters; ``lr`` and ``momentum`` are those of a client that sets none.
        factor: on the learning rate, such as a schedule's; what the state holds is taken as it is.
    """
    fixed = {key: value for key, value in hyper.items() if key not in ("lr", "momentum")}
    usual = {"lr": float(hyper["lr"]) * factor, **({"momentum": hyper["momentum"]} if "momentum" in hyper else {})}
    plain = make_rule(name, **fixed, **usual)

    def init(params: Mapping[str, Tensor], /) -> State:
        own = {key: torch.tensor(float(value), dtype=torch.float64) for key, value in usual.items()}
        return plain.init(params) | {HYPER: own}

    def update(grads: Mapping[str, Tensor], state: State, params: Mapping[str, Tensor], /) -> tuple[Tree, State]:
        inner = {slot: tree for slot, tree in state.items() if slot != HYPER}
        rule = make_rule(name, **fixed, **state[HYPER])
        updates, inner = rule.update(grads, inner, params)
        return updates, inner | {HYPER: state[HYPER]}

    return Rule(init, update)


def adapted(local: LocalUpdate) -> LocalUpdate:
    """Give a local update whose rule begins with the hyperparameters that were put into its client's memory."""

    def begin(params: Tree, state: State, place: Place) -> tuple[Tree, State]:
        # a client that was taken alone brings its hyperparameters and nothing else where it kept no velocity
        whole = local.rule.init(params) | state if "step" not in state else state
        return (params, whole) if local.begin is None else local.begin(params, whole, place)

    return local._replace(begin=begin)


def hyper_memory(spec: ClientSpec, lr: float, momentum: float) -> Tree:
    """Give the slot that hands a client's learning rate and momentum to its rule."""
    own = {"lr": lr} | ({"momentum": momentum} if "momentum" in spec.optimizer else {})
    return {key: torch.tensor(value, dtype=torch.float64) for key, value in own.items()}


def check_adapt(spec: ClientSpec) -> None:
    """Refuse adaptation where the closed forms do not hold or another part needs one number for all clients.

    Raises:
        UserError: the rule is no spring, or the client half does not go with it.
    """
    if spec.adapt is None:
        return
    name = str(spec.optimizer["name"])
    words = " and ".join(
        w for w, on in (("lr: safe", spec.adapt.lr), ("momentum: critical", spec.adapt.momentum)) if on
    )
    if name not in FORM_OF or (spec.adapt.momentum and name == "sgd"):
        known = [rule for rule in FORM_OF if rule != "sgd" or not spec.adapt.momentum]
        raise UserError(f"{words} is not for the optimizer '{name}'; take one of {', '.join(known)}")
    if spec.optimizer.get("dampening", 0.0):
        raise UserError(f"{words} needs dampening 0: for a damped gradient take the optimizer 'ema'")
    counts = spec.method == "scaffold" and spec.method_options.get("control", "steps") == "steps"
    if spec.method in COUNT_GRADIENTS or counts:
        half = "scaffold with control: steps" if counts else spec.method
        raise UserError(
            f"{words} does not go with '{half}', which needs one learning rate and momentum for all clients"
        )
