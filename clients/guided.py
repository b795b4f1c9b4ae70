"""Client halves that a server's momentum leads along: FedCM, FedADC, Mime, DOMO."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fedmomentum.clients.local import Drift, LocalUpdate, Place, drifting, scaled
from fedmomentum.optim.rule import Rule
from fedmomentum.protocol import ARRAYS, GRADIENT, MOMENTUM, RULE_STATE
from fedmomentum.trees import State, Tree, add, sub, zeros_like


def fedcm(rule: Rule, *, alpha: float) -> LocalUpdate:
    """Give local training along ``alpha g(y) + (1 - alpha) Delta``, with the server's mean direction ``Delta``.

    Args:
        rule: the client's; the paper has gradient descent.
        alpha: weight of the client's own gradient, in (0, 1]; 1 is plain local training.

    Raises:
        ValueError: ``alpha`` is out of range.

    Reference: arXiv:2106.10874.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be in (0, 1], not {alpha}")

    return LocalUpdate(rule, **drifting(lambda place: Drift(alpha, shift=scaled(place.shared[MOMENTUM], 1 - alpha))))


def fedadc(rule: Rule, *, local_momentum: float) -> LocalUpdate:
    """Give local training along ``g(y) + beta_l m / K``: the server's momentum, spread over the client's K steps.

    Args:
        rule: the client's; the paper has gradient descent.
        local_momentum: ``beta_l``, in [0, 1).

    Raises:
        ValueError: ``local_momentum`` is out of range.

    Reference: arXiv:2012.09102.
    """
    if not 0 <= local_momentum < 1:
        raise ValueError(f"local_momentum must be in [0, 1), not {local_momentum}")

    def drift(place: Place) -> Drift:
        steps = place.steps.double() if isinstance(place.steps, Tensor) else place.steps
        return Drift(shift=scaled(place.shared[MOMENTUM], local_momentum / steps))

    return LocalUpdate(rule, **drifting(drift))


def mime(rule: Rule) -> LocalUpdate:
    """Give local training with the server's optimizer state ``s`` held fixed, on a gradient freed of the client's bias.

    ``y <- y + rule(g(y) - g(x) + c; s)``, with ``g`` on one minibatch and ``c`` the mean full gradient of the cohort at
    ``x``. The server alone moves ``s``.

    Args:
        rule: any; its state comes from the server. The paper has ``ema``, and any other.

    Reference: arXiv:2008.03606.
    """

    def direction(grads: Tree, params: Tree, place: Place) -> Tree:
        assert place.gradient is not None
        there, common = place.gradient(place.anchor), place.shared[GRADIENT]
        freed = {name: g - there[name] + common[name] for name, g in grads.items()}
        return rule.update(freed, _server_state(place), params)[0]

    return LocalUpdate(_AS_IT_IS, direction=direction)


def mimelite(rule: Rule) -> LocalUpdate:
    """Give local training with the server's optimizer state ``s`` held fixed: ``y <- y + rule(g(y); s)``.

    The client sends the gradient of its whole loss at ``x``, from which the server moves ``s``.

    Args:
        rule: any; its state comes from the server.

    Reference: arXiv:2008.03606.
    """

    def direction(grads: Tree, params: Tree, place: Place) -> Tree:
        return rule.update(grads, _server_state(place), params)[0]

    def finish(params: Tree, state: State, place: Place) -> tuple[dict[str, Tree], State]:
        assert place.full_gradient is not None
        return {GRADIENT: place.full_gradient}, {}

    return LocalUpdate(_AS_IT_IS, direction=direction, finish=finish, full_gradient=True)


_AS_IT_IS = Rule(lambda params: {}, lambda updates, state, params: (dict(updates), state))
"""Adds what it is given: where the direction is the update already."""


def _server_state(place: Place) -> State:
    return {name.removeprefix(RULE_STATE): tree for name, tree in place.shared.items() if name.startswith(RULE_STATE)}


def domo(rule: Rule, *, fusion: float = 0.9, spread: bool = False) -> LocalUpdate:
    """Give local momentum training that also walks along the server's momentum ``m``, which it does not send back.

    The client starts at ``x - fusion lr K m``, or with ``spread`` (DOMO-S) takes ``- fusion lr m`` with each of its K
    steps; it sends ``y + fusion lr K m``, so the mean of what comes back holds gradients alone.

    Args:
        rule: the client's; the paper has ``heavy_ball``, which starts anew each round.
        fusion: strength of the server's momentum on the client, at least 0; 0 is plain local training.
        spread: see above.

    Raises:
        ValueError: ``fusion`` is negative.

    Reference: arXiv:2102.03970.
    """
    if not fusion >= 0:
        raise ValueError(f"fusion must not be negative, not {fusion}")

    def init(params: Mapping[str, Tensor], /) -> State:
        return rule.init(params) | ({_PULL: zeros_like(params)} if spread else {})

    def update(grads: Mapping[str, Tensor], state: State, params: Mapping[str, Tensor], /) -> tuple[Tree, State]:
        inner = {slot: tree for slot, tree in state.items() if slot != _PULL}
        updates, inner = rule.update(grads, inner, params)
        return (add(updates, state[_PULL]), inner | {_PULL: state[_PULL]}) if spread else (updates, inner)

    def begin(params: Tree, state: State, place: Place) -> tuple[Tree, State]:
        if spread:
            return params, state | {_PULL: scaled(place.shared[MOMENTUM], -fusion * place.lr)}
        return add(params, walk(place)), state

    def walk(place: Place) -> Tree:
        steps = place.steps.double() if isinstance(place.steps, Tensor) else place.steps
        return scaled(place.shared[MOMENTUM], -fusion * place.lr * steps)

    def finish(params: Tree, state: State, place: Place) -> tuple[dict[str, Tree], State]:
        return {ARRAYS: sub(params, walk(place))}, {}

    return LocalUpdate(Rule(init, update), begin=begin, finish=finish, by_tensor=True)


_PULL = "pull"
