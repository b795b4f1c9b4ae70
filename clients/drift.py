"""Client halves that hold a client back from its own optimum: FedProx, SCAFFOLD, FedDyn."""

from __future__ import annotations

from typing import Literal

from fedmomentum.clients.horizon import Horizon
from fedmomentum.clients.local import Drift, LocalUpdate, Place, drifting, scaled
from fedmomentum.optim.rule import Rule
from fedmomentum.protocol import CONTROL
from fedmomentum.trees import State, Tree, add, sub, zeros_like


def fedprox(rule: Rule, *, mu: float) -> LocalUpdate:
    """Give local training with a proximal term: the rule sees ``g(y) + mu (y - x)``.

    Args:
        rule: the client's.
        mu: strength of the pull to the global model, at least 0; 0 is plain local training.

    Raises:
        ValueError: ``mu`` is negative.

    Reference: arXiv:1812.06127.
    """
    if mu < 0:
        raise ValueError(f"mu must not be negative, not {mu}")

    return LocalUpdate(rule, **drifting(lambda place: Drift(pull=mu)))


def scaffold(rule: Rule, *, control: Literal["steps", "gradient"] = "steps") -> LocalUpdate:
    """Give local training along ``g(y) - c_i + c``, with a control variate ``c_i`` that the client keeps.

    With ``steps`` (the paper's option II) ``c_i <- c_i - c + (x - y) / (a lr)``, where ``a`` is the number of gradients
    that the client's steps add up: K for gradient descent, more for a rule with momentum. With ``gradient`` (option I)
    ``c_i`` is the gradient of the client's whole loss at ``x``. The client sends the change of ``c_i``.

    Args:
        rule: the client's; ``steps`` needs a linear one, such as ``sgd`` or ``heavy_ball``.
        control: see above.

    Raises:
        ValueError: the rule is not linear and ``control`` is ``steps``, or there is no such option.

    Reference: arXiv:1910.06378.
    """
    if control not in ("steps", "gradient"):
        raise ValueError(f"control must be steps or gradient, not '{control}'")
    horizon = Horizon(rule, "scaffold with control: steps") if control == "steps" else None

    def finish(params: Tree, state: State, place: Place) -> tuple[dict[str, Tree], State]:
        own = place.memory[CONTROL]
        if horizon is None:
            assert place.full_gradient is not None
            new = place.full_gradient
        else:
            mean = scaled(sub(place.anchor, params), 1.0 / (horizon(place.steps, place.lr) * place.lr))
            new = add(sub(own, place.shared[CONTROL]), mean)
        return {CONTROL: sub(new, own)}, {CONTROL: new}

    return LocalUpdate(
        rule,
        finish=finish,
        remember=lambda params: {CONTROL: zeros_like(params)},
        full_gradient=horizon is None,
        **drifting(lambda place: Drift(shift=sub(place.shared[CONTROL], place.memory[CONTROL]))),
    )


def feddyn(rule: Rule, *, alpha: float) -> LocalUpdate:
    """Give local training on ``f_i(y) - <g_i, y> + alpha/2 |y - x|^2``, with a gradient ``g_i`` that the client keeps.

    The rule sees ``g(y) - g_i + alpha (y - x)``; then ``g_i <- g_i - alpha (y - x)``. The paper solves the local
    problem exactly, here it is worked on for the client's steps.

    Args:
        rule: the client's.
        alpha: strength of the regulariser, above 0.

    Raises:
        ValueError: ``alpha`` is not positive.

    Reference: arXiv:2111.04263.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, not {alpha}")

    def finish(params: Tree, state: State, place: Place) -> tuple[dict[str, Tree], State]:
        own = place.memory[CONTROL]
        return {}, {CONTROL: {name: g - alpha * (params[name] - place.anchor[name]) for name, g in own.items()}}

    return LocalUpdate(
        rule,
        finish=finish,
        remember=lambda params: {CONTROL: zeros_like(params)},
        **drifting(lambda place: Drift(pull=alpha, shift=scaled(place.memory[CONTROL], -1.0))),
    )
