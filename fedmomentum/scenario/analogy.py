"""``kind: analogy``: a system that momentum is like, predicted and measured."""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from fedmomentum.scenario.block import Block, ByName, Count, Decay, NonNegative, Positive, Share, Whole
from fedmomentum.scenario.scenario import Scenario

Form = Literal["heavy_ball", "ema", "nesterov"]
SignedDecay = Annotated[float, Field(gt=-1, lt=1)]
RuleName = Literal["sgd", "heavy_ball", "ema", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "yogi", "lion", "pid"]
RACERS: tuple[RuleName, ...] = (
    "sgd", "heavy_ball", "ema", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "yogi", "lion",
)  # fmt: skip


class Spring(Block):
    """A mass on a spring in oil: damping ratio, period, critical momentum."""

    name: Literal["spring"]
    lr: Positive = Field(default=0.01, description="learning rate")
    curvature: Positive = Field(default=1.0, description="of the quadratic; the spring's stiffness")
    momentum: Decay = Field(default=0.9, description="beta; 1 - beta is the friction")
    form: Form = Field(default="heavy_ball", description="which rule")
    steps: Annotated[int, Field(ge=20)] = Field(default=400, description="of the optimizer")


class PdControl(Block):
    """A robot arm under PD control: gains from lr and beta, gravity, a motor of limited torque."""

    name: Literal["pd_control"]
    lr: Positive = Field(default=0.02, description="learning rate")
    curvature: Positive = Field(default=1.0, description="of the quadratic whose gradient is the error")
    momentum: Decay = Field(default=0.8, description="beta; 1 - beta is the derivative gain")
    form: Form = Field(default="heavy_ball", description="which rule")
    target: Annotated[float, Field(gt=0, le=math.pi / 2)] = Field(default=1.2, description="angle to reach, rad")
    gravity: NonNegative = Field(default=6.0, description="torque of gravity on the level arm, N m")
    steps: Count = Field(default=1500, description="of the arm and of the optimizer")


class Plateau(Block):
    """A slope, a narrow well behind it, and a cliff: how fast, how far past, how thrown."""

    name: Literal["plateau"]
    lr: Positive = Field(default=1e-4, description="learning rate; small beside the valley")
    momentum: Decay = Field(default=0.97, description="beta")
    form: Form = Field(default="heavy_ball", description="which rule")
    slope: Positive = Field(default=1.0, description="of the plateau")
    length: Positive = Field(default=0.3, description="of the plateau")
    curvature: Positive = Field(default=3.0, description="of the valley's wall")
    depth: Positive | None = Field(
        default=None, description="of the valley; null: momentum 0.98 carries 1.3 times its energy"
    )


class Ravine(Block):
    """Every rule down a ravine, along the axes and turned."""

    name: Literal["ravine"]
    condition: Annotated[float, Field(gt=1, le=1e6)] = Field(default=1000.0, description="kappa")
    angle: float = Field(default=math.pi / 4, description="by which the second ravine is turned, rad")
    tolerance: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=1e-4, description="of the squared distance to the optimum, relative to the start"
    )
    rules: Annotated[tuple[RuleName, ...], Field(strict=False, min_length=1)] = Field(
        default=RACERS, description="who races; rules without a closed form try 32 learning rates, the fastest counts"
    )
    limit: Count = Field(default=1500, description="steps that a rule without a closed form runs")


class WeightDecay(Block):
    """Decay as a spring (L2) or a leak (decoupled): where each rule comes to rest."""

    name: Literal["weight_decay"]
    lr: Positive = Field(default=0.05, description="learning rate")
    weight_decay: Positive = Field(default=0.5, description="strength of the pull to zero on the quadratic")
    momentum: Decay = Field(default=0.9, description="beta")
    curvature: Positive = Field(default=1.0, description="of the quadratic")
    optimum: float = Field(default=3.0, description="of the quadratic")
    dimension: Annotated[int, Field(ge=2)] = Field(default=400, description="of the scale-invariant weights")


class BatchNorm(Block):
    """Running statistics are a momentum too: their lag beside the optimizer's."""

    name: Literal["batch_norm"]
    bn_momentum: Share = Field(default=0.1, description="torch's momentum of the running statistics")
    momentum: Decay = Field(default=0.9, description="beta of the optimizer")
    local_steps: Count = Field(default=5, description="of a round, for the running variance under server momentum")
    variance: Positive = Field(default=0.1, description="true variance after a fall from one")
    batch: Annotated[int, Field(ge=2)] = Field(default=256, description="examples of a minibatch of the network")


class LowPass(Block):
    """A low-pass filter on the stream of gradients: gain, phase, cutoff, noise."""

    name: Literal["low_pass"]
    momentum: Decay = Field(default=0.9, description="beta")
    form: Form = Field(default="ema", description="which rule")
    steps: Annotated[int, Field(ge=100)] = Field(default=6000, description="of white noise")
    batch: Count = Field(default=8, description="examples of a minibatch of the real model")


class Games(Block):
    """Two players of min_x max_y x y: whether the orbit grows or shrinks."""

    name: Literal["games"]
    lr: Positive = Field(default=0.1, description="of both players")
    momentum_x: SignedDecay = Field(default=-0.5, description="of the minimiser; may be negative")
    momentum_y: SignedDecay = Field(default=0.0, description="of the maximiser; may be negative")
    turns: bool = Field(default=True, description="whether y sees the x that has already moved")
    steps: Count = Field(default=3000, description="rounds of the game")
    gan_steps: Whole = Field(
        default=0, description="rounds of a small GAN: its generator has momentum_x, its discriminator momentum_y"
    )


class Temperature(Block):
    """An optimizer with a constant step is a sampler: at which temperature."""

    name: Literal["temperature"]
    lr: Positive = Field(default=0.01, description="learning rate")
    momentum: Decay = Field(default=0.9, description="beta")
    noise: Positive = Field(default=1.0, description="variance of the gradient")
    curvature: Positive = Field(default=1.0, description="of the quadratic")
    chains: Count = Field(default=4000, description="optimizers that run at once")


class PhaseSpace(Block):
    """Noise that does not commute with the curvature keeps probability flowing in circles."""

    name: Literal["phase_space"]
    lr: Positive = Field(default=0.02, description="learning rate; for plain descent the step of time")
    momentum: Decay = Field(default=0.8, description="of the heavy ball")
    stiff: Positive = Field(default=4.0, description="the second curvature; the first is 1")
    angle: float = Field(default=math.pi / 4, description="of the noise's long axis to the first curvature's, rad")
    ratio: Annotated[float, Field(ge=1)] = Field(default=8.0, description="of the noise's variances")
    chains: Count = Field(default=4000, description="optimizers that run at once")
    steps: Count = Field(default=400, description="over which moments are averaged")


class Recurrent(Block):
    """A recurrent network: curvature, safe learning rate, growth of gradients, clipping."""

    name: Literal["recurrent"]
    weight: float = Field(default=1.02, description="of the scalar network")
    length: Annotated[int, Field(ge=2)] = Field(default=30, description="steps in time")
    momentum: Decay = Field(default=0.9, description="beta")
    form: Form = Field(default="heavy_ball", description="which rule")
    size: Count = Field(default=60, description="units of the random network")
    gain: Positive = Field(default=0.8, description="of the random network; its edge of chaos is near 1")
    clip: Positive = Field(default=1.0, description="largest norm of a gradient")
    gru: Whole = Field(default=0, description="units of a GRU whose largest safe learning rates are measured; 0: none")


class ServerMomentum(Block):
    """Momentum on a server: stability, fixed point, variance under partial participation."""

    name: Literal["server_momentum"]
    clients: Annotated[int, Field(ge=2)] = Field(default=40, description="N")
    per_round: Count = Field(default=5, description="S, clients of a round")
    server_lr: Positive = Field(default=0.1, description="learning rate of the server")
    momentum: Decay = Field(default=0.9, description="of the server")
    local_lr: Positive = Field(default=0.1, description="learning rate of the clients")
    local_steps: Count = Field(default=5, description="E, of a round")
    curvature: Positive = Field(default=1.0, description="of all clients")
    replicas: Count = Field(default=600, description="federations that run at once")
    rounds: Count = Field(default=500, description="over which moments are averaged")


System: TypeAlias = Annotated[
    Spring
    | PdControl
    | Plateau
    | Ravine
    | WeightDecay
    | BatchNorm
    | LowPass
    | Games
    | Temperature
    | PhaseSpace
    | Recurrent
    | ServerMomentum,
    ByName(),
]


class AnalogyScenario(Scenario):
    """An analogy: its closed form beside an experiment, on this machine, in seconds."""

    kind: Literal["analogy"] = Field(description="what is run")
    system: System = Field(description="what momentum is like")
