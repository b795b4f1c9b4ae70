"""A fast path of the client loop: torch's fused optimizers where they are the same rule.

Equal to the rule to float tolerance (tests/clients/test_fused.py); everything else takes the rule itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedmomentum.clients.spec import ClientSpec
from fedmomentum.trees import State

_PLAIN = {"lr", "weight_decay", "decay", "momentum", "dampening"}


class FusedSGD:
    """SGD with momentum over a list of parameters in one kernel; its velocity can be read and set as a rule's state."""

    def __init__(
        self, names: Sequence[str], params: Sequence[Tensor], hyper: Mapping[str, Any], *, nesterov: bool
    ) -> None:
        """Bind to parameters; ``hyper`` is that of the rule."""
        self.names, self.params = list(names), list(params)
        self.optimizer = torch.optim.SGD(
            self.params,
            lr=float(hyper["lr"]),
            momentum=float(hyper.get("momentum", 0.0)),
            weight_decay=float(hyper.get("weight_decay", 0.0)),
            nesterov=nesterov,
            fused=True,
        )
        self.has_velocity = float(hyper.get("momentum", 0.0)) > 0.0

    def reset(self, lr: float, state: State | None) -> None:
        """Begin a client: set the learning rate, and its velocity where it kept one."""
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.state.clear()
        if state and self.has_velocity:
            for name, p in zip(self.names, self.params, strict=True):
                self.optimizer.state[p]["momentum_buffer"] = state["velocity"][name].clone()

    def step(self) -> None:
        """Take one step with the gradients in ``.grad``."""
        self.optimizer.step()

    def state(self) -> State:
        """Give the velocity as the rule's state."""
        if not self.has_velocity:
            return {}
        buffers = {
            n: self.optimizer.state[p].get("momentum_buffer") for n, p in zip(self.names, self.params, strict=True)
        }
        return {"velocity": {n: b.clone() for n, b in buffers.items() if b is not None}}


def fused_sgd(name: str, hyper: Mapping[str, Any], names: Sequence[str], params: Sequence[Tensor]) -> FusedSGD | None:
    """Give the fused form of a rule over these parameters, or None where there is none that is equal."""
    if name not in ("sgd", "heavy_ball", "nesterov") or hyper.keys() - _PLAIN:
        return None
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
    """A rule that is nothing but ``v <- momentum v + g``, ``x <- x - scale lr v``, from ``v = 0``."""

    momentum: float
    scale: float = 1.0


def heavy_ball(spec: ClientSpec) -> HeavyBall | None:
    """Give a client's rule as a heavy ball (SGD is one of momentum 0), or None where it is none.

    An exponential moving average is one whose velocity, and so whose step, is scaled by ``1 - momentum``.
    """
    hyper = {key: value for key, value in spec.optimizer.items() if key != "name"}
    name, beta = spec.optimizer["name"], hyper.get("momentum", 0.9)
    if name not in ("sgd", "heavy_ball", "ema") or hyper.keys() - _PLAIN or spec.clip_norm is not None:
        return None
    if hyper.get("dampening", 0.0) or hyper.get("weight_decay", 0.0) or not isinstance(hyper["lr"], float | int):
        return None
    if name == "sgd":
        return HeavyBall(0.0)
    read = spec.keep_state or spec.method != "local_sgd"  # then its velocity has to be its own
    if not isinstance(beta, float | int) or (name == "ema" and read):
        return None
    return HeavyBall(float(beta), 1.0 - float(beta) if name == "ema" else 1.0)
