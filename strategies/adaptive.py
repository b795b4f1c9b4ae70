"""Adaptive server optimizers of Reddi et al. 2020 (arXiv:2003.00295), each in the three conventions in use.

With ``D = x - mean(x_i)`` and ``m <- beta_1 m + (1 - beta_1) D``, all of them step ``x <- x - eta m / (sqrt(v) + tau)``
and differ in ``v``. The conventions differ in small print that decides the first dozens of rounds:

- ``paper``: ``v`` starts at ``tau^2``, no bias correction;
- ``keras``: as Keras and TFF have it, ``v`` starts at 0 and round ``t`` steps ``sqrt(1 - beta_2^t) / (1 - beta_1^t)``
  times as far (Adagrad, which averages nothing, has no correction);
- ``flower``: as Flower 1.41 has it: ``v`` starts at 0; FedAdam corrects with exponent ``t + 1``, the others not at all.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from fedmomentum.optim import Rule, adagrad, adam, yogi
from fedmomentum.optim.hyper import Schedule
from fedmomentum.strategies.fedopt import ServerOptimizer

Convention: TypeAlias = Literal["paper", "keras", "flower"]
"""See the module's docstring."""


@dataclass(eq=False, repr=False)
class Adaptive(ServerOptimizer):
    """What the adaptive server optimizers share.

    Args:
        eta: server learning rate, at least 0, or a schedule of the number of steps taken.
        eta_l: client learning rate, for the record: clients have it from their own configuration.
        tau: degree of adaptivity, added to the root, at least 0.
        convention: see the module's docstring.

    Raises:
        ValueError: an argument is out of range.
    """

    by_tensor: ClassVar[bool] = True

    _: KW_ONLY
    eta: float | Schedule = 1e-1
    eta_l: float = 1e-1
    tau: float = 1e-3
    convention: Convention = "paper"

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.convention not in ("paper", "keras", "flower"):
            raise ValueError(f"convention must be one of paper, keras, flower, not '{self.convention}'")
        super().__post_init__()

    def _second_moment(self) -> dict[str, Any]:
        """Give the options of the rule that the convention settles."""
        start = self.tau**2 if self.convention == "paper" else 0.0
        return {"lr": self.eta, "eps": self.tau, "initial_second_moment": start}


@dataclass(eq=False, repr=False)
class FedAdagrad(Adaptive):
    """``v <- v + D^2``. arXiv:2003.00295, algorithm 2.

    Args:
        beta_1: of the first moment, in [0, 1); Flower's FedAdagrad has it at 0.
    """

    _: KW_ONLY
    beta_1: float = 0.0

    def server_rule(self) -> Rule:
        """Give Adagrad."""
        return adagrad(beta1=self.beta_1, **self._second_moment())


@dataclass(eq=False, repr=False)
class FedAdam(Adaptive):
    """``v <- beta_2 v + (1 - beta_2) D^2``. arXiv:2003.00295, algorithm 2.

    Args:
        beta_1: of the first moment, in [0, 1).
        beta_2: of the second moment, in [0, 1).
    """

    _: KW_ONLY
    beta_1: float = 0.9
    beta_2: float = 0.99

    def server_rule(self) -> Rule:
        """Give Adam."""
        return adam(**self._adam())

    def _adam(self) -> dict[str, Any]:
        options = {**self._second_moment(), "beta1": self.beta_1, "beta2": self.beta_2, "eps_hat": True}
        return {
            **options,
            "bias_correction": self.convention != "paper",
            "count_offset": 1 if self.convention == "flower" else 0,
        }


@dataclass(eq=False, repr=False)
class FedAdamW(FedAdam):
    """FedAdam with decoupled weight decay: ``x <- (1 - eta weight_decay) x - eta m / (sqrt(v) + tau)``.

    Args:
        weight_decay: of the parameters (never of buffers), per round and unit of ``eta``, at least 0.

    Reference: arXiv:1711.05101 for the decay, arXiv:2003.00295 for the rest.
    """

    _: KW_ONLY
    weight_decay: float = 0.01

    def server_rule(self) -> Rule:
        """Give Adam with decoupled decay."""
        return adam(**self._adam(), weight_decay=self.weight_decay, decay="decoupled")


@dataclass(eq=False, repr=False)
class FedYogi(Adaptive):
    """``v <- v - (1 - beta_2) D^2 sign(v - D^2)``. arXiv:2003.00295, algorithm 2.

    Args:
        beta_1: of the first moment, in [0, 1).
        beta_2: of the second moment, in [0, 1).
    """

    _: KW_ONLY
    eta: float | Schedule = 1e-2
    eta_l: float = 0.0316
    beta_1: float = 0.9
    beta_2: float = 0.99

    def server_rule(self) -> Rule:
        """Give Yogi."""
        corrected = self.convention == "keras"
        options = {**self._second_moment(), "beta1": self.beta_1, "beta2": self.beta_2}
        return yogi(**options, bias_correction=corrected, eps_hat=corrected)
