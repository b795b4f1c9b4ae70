"""What a client measures beside its training, and what it makes of that: plain data, part of a :class:`ClientSpec`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmomentum.analogies.linear import Form

PROBES = ("curvature", "damping", "stability", "noise", "batch_norm", "irreversibility", "drift")
"""The measurements, by the name that a scenario asks for them with; ``docs/probes.md`` has each one's equation."""

SPRINGS = ("damping", "stability")
"""Those that read the rule as a spring: it has to be one of ``FORM_OF``."""
SPECTRAL = ("curvature", *SPRINGS)
"""Those that share one run of Lanczos at the global model."""
PATH = ("noise", "batch_norm", "irreversibility", "drift")
"""Those that follow the client's own steps."""

FORM_OF: dict[str, Form] = {"sgd": "heavy_ball", "heavy_ball": "heavy_ball", "ema": "ema", "nesterov": "nesterov"}
"""Rule -> the form of momentum whose spring it is; gradient descent is a heavy ball without momentum."""

PREFIX = "probe_"
"""Of every column that a measurement adds."""


@dataclass(frozen=True)
class Measure:
    """Which measurements, how often, and how much each may cost.

    Args:
        probes: names out of :data:`PROBES`; none: nothing is measured and nothing is spent.
        every: rounds from one measurement to the next; the first is in round 1.
        lanczos_steps: Hessian-vector products a client and measurement; each costs about two gradients.
        examples: of a client's examples, how many curvature is measured on at most, the same ones every time.
        path_steps: local steps that are followed at most, the last ones of the round.

    Raises:
        ValueError: a probe that there is not, or a number below 1.
    """

    probes: tuple[str, ...] = ()
    every: int = 1
    lanczos_steps: int = 10
    examples: int = 256
    path_steps: int = 64

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name in self.probes:
            if name not in PROBES:
                raise ValueError(f"there is no probe '{name}'; there are: {', '.join(PROBES)}")
        for name in ("every", "lanczos_steps", "examples", "path_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def due(self, server_round: int) -> bool:
        """Tell whether a round is measured."""
        return bool(self.probes) and (server_round - 1) % self.every == 0

    def wants(self, names: tuple[str, ...]) -> bool:
        """Tell whether any of these probes is asked for."""
        return any(name in self.probes for name in names)


@dataclass(frozen=True)
class Adapt:
    """Hyperparameters that a client sets from its own curvature (``lr: safe``, ``momentum: critical``).

    Args:
        lr: whether the learning rate is set; else it is the scenario's.
        momentum: whether the momentum is.
        margin: part of the largest stable learning rate that is taken, in (0, 1).
        max_lr: largest learning rate, and the one where no positive curvature is found.
        max_momentum: largest momentum, likewise.
        every: rounds after which a client's curvature is measured again; until then it goes by what it kept.

    Raises:
        ValueError: nothing is set, or a number is out of its range.
    """

    lr: bool = False
    momentum: bool = False
    margin: float = 0.1
    max_lr: float = 1.0
    max_momentum: float = 0.95
    every: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        if not (self.lr or self.momentum):
            raise ValueError("nothing is adapted: lr, momentum or both")
        if not (0 < self.margin < 1 and self.max_lr > 0 and 0 <= self.max_momentum < 1 and self.every >= 1):
            raise ValueError(
                "need 0 < margin < 1, max_lr > 0, 0 <= max_momentum < 1 and every >= 1, not "
                f"{self.margin}, {self.max_lr}, {self.max_momentum}, {self.every}"
            )
