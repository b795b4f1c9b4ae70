"""Momentum and adaptive rules by name: a client's ``optimizer``, or the ``rule`` of a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from fedmomentum.scenario.block import Block, ByName, Decay, Misfit, NonNegative, Positive, Share

Betas = Annotated[tuple[Decay, Decay], Field(strict=False)]  # a YAML list is no tuple; its items stay strict
DecayForm = Literal["l2", "decoupled"]


class OptimizerBlock(Block):
    """A rule that turns gradients into steps."""

    lr: Positive = Field(description="learning rate")
    weight_decay: NonNegative = Field(default=0.0, description="strength of the pull of the weights to zero")
    decay: DecayForm = Field(
        default="l2", description="weight decay as part of the gradient (l2) or of the step (decoupled)"
    )


class Sgd(OptimizerBlock):
    """x <- x - lr g."""

    name: Literal["sgd"]


class HeavyBall(OptimizerBlock):
    """v <- momentum v + (1 - dampening) g, x <- x - lr v: torch's SGD with momentum."""

    name: Literal["heavy_ball"]
    momentum: Decay = Field(default=0.9, description="part of the velocity that is kept, a step")
    dampening: Decay = Field(default=0.0, description="part of each gradient, after the first, that is left out")


class Ema(OptimizerBlock):
    """v <- momentum v + (1 - momentum) g, x <- x - lr v."""

    name: Literal["ema"]
    momentum: Decay = Field(default=0.9, description="part of the average that is kept, a step")


class Nesterov(OptimizerBlock):
    """v <- momentum v + g, x <- x - lr (g + momentum v): torch's Nesterov."""

    name: Literal["nesterov"]
    momentum: Decay = Field(default=0.9, description="part of the velocity that is kept, a step")


class Adagrad(OptimizerBlock):
    """s <- s + g^2, x <- x - lr g / (sqrt s + eps)."""

    name: Literal["adagrad"]
    eps: Positive = Field(default=1e-10, description="keeps the denominator from zero")


class RmsProp(OptimizerBlock):
    """s <- alpha s + (1 - alpha) g^2, x <- x - lr g / (sqrt s + eps)."""

    name: Literal["rmsprop"]
    alpha: Decay = Field(default=0.99, description="part of the mean square that is kept, a step")
    eps: Positive = Field(default=1e-8, description="keeps the denominator from zero")
    momentum: Decay = Field(default=0.0, description="heavy-ball momentum of the scaled gradient")
    centered: bool = Field(
        default=False, description="divide by the standard deviation instead of the root mean square"
    )


class Adam(OptimizerBlock):
    """m, v: averages of g and g^2, bias-corrected; x <- x - lr m / (sqrt v + eps) (arXiv:1412.6980)."""

    name: Literal["adam"]
    betas: Betas = Field(default=(0.9, 0.999), description="parts of m and of v that are kept, a step")
    eps: Positive = Field(default=1e-8, description="keeps the denominator from zero")
    amsgrad: bool = Field(default=False, description="divide by the largest v so far (arXiv:1904.09237)")


class AdamW(OptimizerBlock):
    """Adam with weight decay as part of the step (arXiv:1711.05101)."""

    name: Literal["adamw"]
    weight_decay: NonNegative = Field(default=0.01, description="strength of the pull of the weights to zero")
    decay: DecayForm = Field(default="decoupled", description="decoupled is what the W stands for; l2 is Adam")
    betas: Betas = Field(default=(0.9, 0.999), description="parts of m and of v that are kept, a step")
    eps: Positive = Field(default=1e-8, description="keeps the denominator from zero")
    amsgrad: bool = Field(default=False, description="divide by the largest v so far (arXiv:1904.09237)")


class Yogi(OptimizerBlock):
    """Adam whose v moves by (1 - beta_2) g^2 sign(v - g^2) (Zaheer et al., NeurIPS 2018)."""

    name: Literal["yogi"]
    betas: Betas = Field(default=(0.9, 0.999), description="parts of m and of v that are kept, a step")
    eps: Positive = Field(default=1e-3, description="keeps the denominator from zero")


class Lion(OptimizerBlock):
    """x <- x - lr sign(beta_1 m + (1 - beta_1) g), m <- beta_2 m + (1 - beta_2) g (arXiv:2302.06675)."""

    name: Literal["lion"]
    decay: DecayForm = Field(
        default="decoupled", description="weight decay as part of the step (decoupled) or of the gradient (l2)"
    )
    betas: Betas = Field(default=(0.9, 0.99), description="part of m in the step, and part of m that is kept, a step")


class Pid(OptimizerBlock):
    """v <- momentum v + kP g + kI (sum of g) + kD (change of g), x <- x - lr v: PID control (An et al., CVPR 2018)."""

    name: Literal["pid"]
    momentum: Decay = Field(default=0.9, description="part of the velocity that is kept, a step")
    proportional: NonNegative = Field(default=1.0, description="kP")
    integral: NonNegative = Field(default=0.0, description="kI, a step; takes away a constant error; 0: heavy ball")
    derivative: NonNegative = Field(default=0.0, description="kD, in steps; damps; as momentum: Nesterov")


Optimizer: TypeAlias = Annotated[
    Sgd | HeavyBall | Ema | Nesterov | Adagrad | RmsProp | Adam | AdamW | Yogi | Lion | Pid, ByName()
]


class SamplerBlock(Block):
    """A rule with noise, whose steps are draws from exp(-f / T) of the client's loss f."""

    lr: Positive = Field(description="learning rate, in units of the parameters squared over those of f")
    temperature: NonNegative | None = Field(
        default=None, description="T; null: 1 / n with the n training examples of all clients, which is their posterior"
    )
    weight_decay: NonNegative = Field(
        default=0.0, description="pull of the weights to zero: a Gaussian prior of precision weight_decay / T"
    )


class Sgld(SamplerBlock):
    """x <- x - lr g + sqrt(2 lr T) xi: stochastic gradient Langevin dynamics (arXiv:1506.04696)."""

    name: Literal["sgld"]


class FrictionBlock(SamplerBlock):
    """A sampler with a velocity."""

    friction: Share = Field(default=0.1, description="part of the velocity that is lost a step: 1 - momentum")


class Sghmc(FrictionBlock):
    """v <- (1 - friction) v - lr g + noise, x <- x + v: the heavy ball with noise (arXiv:1402.4102)."""

    name: Literal["sghmc"]


class UnderdampedLangevin(FrictionBlock):
    """Underdamped Langevin dynamics in BAOAB steps of time sqrt(lr) (arXiv:1203.5428)."""

    name: Literal["underdamped_langevin"]


Rate = Positive | Literal["safe"]
_SAFE = "learning rate; `safe`: each client's own, by its curvature (see `client.adapt`)"
_CRITICAL = "part of the velocity that is kept, a step; `critical`: each client's own, by its curvature"


class ClientSgd(Sgd):
    """x <- x - lr g."""

    lr: Rate = Field(description=_SAFE)  # type: ignore[assignment]


class ClientHeavyBall(HeavyBall):
    """v <- momentum v + (1 - dampening) g, x <- x - lr v: torch's SGD with momentum."""

    lr: Rate = Field(description=_SAFE)  # type: ignore[assignment]
    momentum: Decay | Literal["critical"] = Field(default=0.9, description=_CRITICAL)  # type: ignore[assignment]

    def misfits(self) -> Iterator[Misfit]:
        """Refuse a damped gradient where the client's curvature sets the rest: the closed forms know of none."""
        yield from super().misfits()
        if self.dampening and (self.lr == "safe" or self.momentum == "critical"):
            words = "momentum: critical" if self.momentum == "critical" else "lr: safe"
            yield Misfit(("dampening",), f"{words} needs dampening 0; for a damped gradient take the optimizer 'ema'")


class ClientEma(Ema):
    """v <- momentum v + (1 - momentum) g, x <- x - lr v."""

    lr: Rate = Field(description=_SAFE)  # type: ignore[assignment]
    momentum: Decay | Literal["critical"] = Field(default=0.9, description=_CRITICAL)  # type: ignore[assignment]


class ClientNesterov(Nesterov):
    """v <- momentum v + g, x <- x - lr (g + momentum v): torch's Nesterov."""

    lr: Rate = Field(description=_SAFE)  # type: ignore[assignment]
    momentum: Decay | Literal["critical"] = Field(default=0.9, description=_CRITICAL)  # type: ignore[assignment]


ClientOptimizer: TypeAlias = Annotated[
    ClientSgd
    | ClientHeavyBall
    | ClientEma
    | ClientNesterov
    | Adagrad
    | RmsProp
    | Adam
    | AdamW
    | Yogi
    | Lion
    | Pid
    | Sgld
    | Sghmc
    | UnderdampedLangevin,
    ByName(),
]
"""What a client can step by: a rule, or a sampler."""
SAMPLERS = ("sgld", "sghmc", "underdamped_langevin")
