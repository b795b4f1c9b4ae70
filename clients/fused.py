"""A fast path of the client loop: torch's fused optimizers where they are the same rule.

Equal to the rule to float tolerance (tests/clients/test_fused.py); everything else takes the rule itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from fedmomentum.clients.early import as_gradients_come
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.optim.registry import hyperparameters
from fedmomentum.trees import State

_PLAIN = {"lr", "weight_decay", "decay", "momentum", "dampening"}


class FusedSGD:
    """SGD with momentum over a list of parameters in one kernel; its velocity can be read and set as a rule's state.

    It calls torch's kernel through ``torch.optim.sgd.sgd``: making a ``torch.optim.SGD`` imports all of torch's
    compiler, which takes longer than the first rounds.
    """

    def __init__(
        self, names: Sequence[str], params: Sequence[Tensor], hyper: Mapping[str, Any], *, nesterov: bool
    ) -> None:
        """Bind to parameters; ``hyper`` is that of the rule."""
        self.names, self.params = list(names), list(params)
        self.lr, self.momentum = float(hyper["lr"]), float(hyper.get("momentum", 0.0))
        self.weight_decay, self.nesterov = float(hyper.get("weight_decay", 0.0)), nesterov
        self._velocity: list[Tensor] = []

    def reset(self, lr: float, state: State | None) -> None:
        """Begin a client: set the learning rate, and its velocity where it kept one."""
        self.lr = lr
        if self.momentum and not self._velocity:
            self._velocity = [torch.zeros_like(p) for p in self.params]
        kept = state.get("velocity", {}) if state else {}
        for name, v in zip(self.names, self._velocity, strict=False):
            if name in kept:
                v.copy_(kept[name])
            else:
                v.zero_()

    def release(self) -> None:
        """Give the memory of the velocity back."""
        self._velocity = []

    def while_backward(self) -> AbstractContextManager[None]:
        """Step each parameter as soon as its gradient is there; the same bits as :meth:`step`."""
        return as_gradients_come(self.params, lambda position: self._step([position]))

    def step(self) -> None:
        """Take one step with the gradients in ``.grad``; a parameter without one stays."""
        self._step([i for i, p in enumerate(self.params) if p.grad is not None])

    def _step(self, moved: Sequence[int]) -> None:
        sgd(
            [self.params[i] for i in moved],
            [g for i in moved if (g := self.params[i].grad) is not None],
            [self._velocity[i] if self.momentum else None for i in moved],
            fused=True,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            dampening=0.0,
            maximize=False,
        )

    def state(self) -> State:
        """Give the velocity as the rule's state."""
        if not self.momentum:
            return {}
        return {"velocity": {n: v.clone() for n, v in zip(self.names, self._velocity, strict=True)}}


def fused_sgd(name: str, hyper: Mapping[str, Any], names: Sequence[str], params: Sequence[Tensor]) -> FusedSGD | None:
    """Give the fused form of a rule over these parameters, or None where there is none that is equal."""
    if name not in ("sgd", "heavy_ball", "nesterov") or hyper.keys() - _PLAIN:
        return None
    hyper = {**hyperparameters(name), **hyper}  # what is left out has the rule's default, not torch's
    if hyper.get("dampening", 0.0) or not isinstance(hyper.get("lr"), float | int):
        return None
    if hyper.get("weight_decay", 0.0) and hyper.get("decay", "l2") != "l2":
        return None
    if hyper.get("momentum", 0.0) < 0.0 or (name == "nesterov" and not hyper.get("momentum", 0.0)):
        return None  # torch's refuses both
    if any(not p.is_floating_point() or p.dtype not in (torch.float32, torch.float64) for p in params):
        return None
    return FusedSGD(names, params, hyper, nesterov=name == "nesterov")


class HeavyBall(NamedTuple):
    """A rule ``d = g + decay x``, ``v <- momentum v + d``, ``x <- x - scale lr v`` (Nesterov: ``d + momentum v``)."""

    momentum: float
    scale: float = 1.0
    decay: float = 0.0
    nesterov: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is nothing but ``v <- momentum v + g``, ``x <- x - scale lr v``."""
        return not self.decay and not self.nesterov


def heavy_ball(spec: ClientSpec) -> HeavyBall | None:
    """Give a client's rule as a heavy ball (SGD is one of momentum 0), or None where it is none.

    An exponential moving average is one whose velocity, and so whose step, is scaled by ``1 - momentum``.
    """
    hyper = {key: value for key, value in spec.optimizer.items() if key != "name"}
    name, beta = spec.optimizer["name"], hyper.get("momentum", 0.9)
    if name not in ("sgd", "heavy_ball", "ema", "nesterov") or hyper.keys() - _PLAIN or spec.clip_norm is not None:
        return None
    decay = hyper.get("weight_decay", 0.0)
    if hyper.get("dampening", 0.0) or not all(isinstance(x, float | int) for x in (hyper["lr"], decay, beta)):
        return None
    if decay and hyper.get("decay", "l2") != "l2":
        return None
    if name == "sgd":
        return HeavyBall(0.0, decay=float(decay))
    if name == "ema" and (spec.keep_state or spec.method != "local_sgd"):  # then its velocity has to be its own
        return None
    scale = 1.0 - float(beta) if name == "ema" else 1.0
    return HeavyBall(float(beta), scale, float(decay), nesterov=name == "nesterov")
