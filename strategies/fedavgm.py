"""Federated averaging with server momentum. arXiv:1909.06335."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

from fedmomentum.optim import Rule, ema, heavy_ball, nesterov
from fedmomentum.optim.hyper import Schedule
from fedmomentum.strategies.fedopt import ServerOptimizer


@dataclass(eq=False, repr=False)
class FedAvgM(ServerOptimizer):
    """Momentum on the pseudo-gradient ``D = x - mean(x_i)``. Hsu, Qi, Brown 2019, arXiv:1909.06335.

    - ``heavy_ball``: ``v <- beta v + (1 - dampening) D``, ``x <- x - eta v``; Flower's FedAvgM, bit for bit with
      ``accumulation="native"``. As in torch, the first round takes ``v = D`` whatever the dampening.
    - ``nesterov``: ``v <- beta v + D``, ``x <- x - eta (D + beta v)``: the form that the paper used.
    - ``ema``: ``v <- beta v + (1 - beta) D``, ``x <- x - eta v``.

    With the defaults it is FedAvg.

    Args:
        server_learning_rate: ``eta``, at least 0, or a schedule of the number of steps taken.
        server_momentum: ``beta``, per round, in [-1, 1].
        form: see above.
        dampening: in [0, 1]; only ``heavy_ball`` has it.

    Raises:
        ValueError: an argument is out of range, or dampening is given to another form than the heavy ball.
    """

    by_tensor: ClassVar[bool] = True

    server_learning_rate: float | Schedule = 1.0
    server_momentum: float = 0.0
    _: KW_ONLY
    form: Literal["heavy_ball", "ema", "nesterov"] = "heavy_ball"
    dampening: float = 0.0

    def server_rule(self) -> Rule | None:
        """Give the rule of the chosen form; None where it would give back the mean."""
        if self.form not in ("heavy_ball", "ema", "nesterov"):
            raise ValueError(f"form must be one of heavy_ball, ema, nesterov, not '{self.form}'")
        if self.dampening and self.form != "heavy_ball":
            raise ValueError(f"dampening belongs to the heavy_ball form, not to {self.form}")
        if self.server_momentum == 0.0 and self.server_learning_rate == 1.0:
            return None
        if self.form == "heavy_ball":
            return heavy_ball(lr=self.server_learning_rate, momentum=self.server_momentum, dampening=self.dampening)
        return (ema if self.form == "ema" else nesterov)(lr=self.server_learning_rate, momentum=self.server_momentum)
