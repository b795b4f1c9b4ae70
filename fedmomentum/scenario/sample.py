"""``kind: sample``: a sampler on a law that is known, or on the posterior of a small model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from fedmomentum.scenario.block import Block, ByName, Count, Misfit, NonNegative, Positive, Share, Whole
from fedmomentum.scenario.running import Checkpoint
from fedmomentum.scenario.scenario import Scenario

Numbers = Annotated[tuple[float, ...], Field(strict=False, min_length=1)]
Matrix = Annotated[tuple[Numbers, ...], Field(strict=False, min_length=1)]
Digit = Annotated[int, Field(ge=0, le=9)]


class GaussianTarget(Block):
    """A Gaussian, whose moments every kernel here is predicted on."""

    name: Literal["gaussian"]
    mean: Numbers = Field(default=(0.0, 0.0), description="a list of numbers")
    covariance: Matrix = Field(default=((2.0, 1.2), (1.2, 1.5)), description="a list of rows")

    def misfits(self) -> Iterator[Misfit]:
        """Refuse a matrix that is not square, not symmetric, or of another size than the mean."""
        yield from super().misfits()
        size, rows = len(self.mean), self.covariance
        if len(rows) != size or any(len(row) != size for row in rows):
            yield Misfit(("covariance",), f"expected {size} rows of {size} numbers, as the mean has {size}")
        elif any(rows[i][j] != rows[j][i] for i in range(size) for j in range(i)):
            yield Misfit(("covariance",), "expected a symmetric matrix")


class Banana(Block):
    """Rosenbrock's valley as a law: y follows x^2; its moments are known, and no Gaussian looks like it."""

    name: Literal["banana"]
    centre: float = Field(default=1.0, description="mean of x")
    scale: Positive = Field(default=1.0, description="standard deviation of x")
    width: Positive = Field(default=0.5, description="standard deviation of y around x^2")


class Funnel(Block):
    """Neal's funnel: one number sets the scale of all others, so that no one step size suits it."""

    name: Literal["funnel"]
    size: Annotated[int, Field(ge=2)] = Field(default=3, description="numbers")
    scale: Positive = Field(default=3.0, description="standard deviation of the first")


class LinearRegression(Block):
    """Bayesian linear regression on the diabetes data of scikit-learn, standardised: a Gaussian posterior."""

    name: Literal["linear_regression"]
    noise: Positive = Field(default=0.5, description="variance of the answers")
    prior: Positive = Field(default=1.0, description="variance of each weight")


class LogisticRegression(Block):
    """Bayesian logistic regression between two of scikit-learn's digits, on principal components and a constant."""

    name: Literal["logistic_regression"]
    digits: Annotated[tuple[Digit, Digit], Field(strict=False)] = Field(
        default=(3, 8), description="which two; the second is the positive one"
    )
    components: Annotated[int, Field(ge=1, le=64)] = Field(default=16, description="principal components of the pixels")
    prior: Positive = Field(default=1.0, description="variance of each weight")


Target: TypeAlias = Annotated[GaussianTarget | Banana | Funnel | LinearRegression | LogisticRegression, ByName()]


class KernelBlock(Block):
    """A sampler."""

    step_size: Positive = Field(description="in units of x squared; a time for hmc and underdamped_langevin")


class NoisyKernel(KernelBlock):
    """A sampler that takes no decision, so that gradients may be noisy."""

    temperature: NonNegative = Field(default=1.0, description="T of exp(-U / T)")
    gradient_noise: NonNegative = Field(default=0.0, description="variance V that is added to each gradient")


class SgldKernel(NoisyKernel):
    """x <- x - h dU + sqrt(2 h T) xi (arXiv:1506.04696)."""

    name: Literal["sgld"]


class SghmcKernel(NoisyKernel):
    """v <- (1 - al) v - eta dU + N(0, 2 (al T - eta V / 2) eta), x <- x + v (arXiv:1402.4102)."""

    name: Literal["sghmc"]
    friction: Share = Field(default=0.1, description="al, part of the velocity that is lost a step")
    correct: bool = Field(default=True, description="leave the heat of the gradient's noise out of the injected noise")


class UnderdampedKernel(NoisyKernel):
    """dv = -dU dt - gamma v dt + noise, in BAOAB steps (arXiv:1203.5428)."""

    name: Literal["underdamped_langevin"]
    friction: Positive = Field(default=1.0, description="gamma, a rate")


class HmcKernel(KernelBlock):
    """Fresh momenta, leapfrog, accept or reject: exact; its warm-up finds step size and mass (arXiv:1206.1901)."""

    name: Literal["hmc"]
    step_size: Positive | None = Field(default=None, description="of the leapfrog; null: found in the warm-up")  # type: ignore[assignment]
    steps: Count | None = Field(
        default=10, description="leapfrog steps a draw; null: found in the warm-up of 4 chains or more, and then random"
    )
    random_steps: bool = Field(default=False, description="draw their number, uniform from 1 to steps, for every draw")
    mass: Literal["diagonal", "dense"] = Field(default="diagonal", description="what the warm-up learns of the scales")
    target_acceptance: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.8, description="of the warm-up")


Kernel: TypeAlias = Annotated[SgldKernel | SghmcKernel | UnderdampedKernel | HmcKernel, ByName()]


class SampleScenario(Scenario):
    """A sampler on this machine: its draws against the law that they should have, in seconds."""

    kind: Literal["sample"] = Field(description="what is run")
    target: Target = Field(description="the law to sample from")
    kernel: Kernel = Field(description="the sampler")
    chains: Annotated[int, Field(ge=1, le=100_000)] = Field(default=16, description="chains, stacked")
    spread: NonNegative = Field(
        default=2.0, description="standard deviation of the starting points; spread them, so that R-hat means something"
    )
    warmup: Annotated[int, Field(ge=20)] = Field(default=300, description="draws that are thrown away")
    draws: Annotated[int, Field(ge=8)] = Field(default=1000, description="draws of each chain after the warm-up")
    thin: Count = Field(default=1, description="keep one transition in so many")
    every: Count = Field(default=100, description="draws between two rows of metrics")
    reference: Whole = Field(
        default=2000, description="draws of each of 8 chains of a long HMC run, where moments have no closed form"
    )
    checkpoint: Checkpoint = Field(default=Checkpoint(), description="how a run is kept so that it can go on")

    def misfits(self) -> Iterator[Misfit]:
        """Refuse to look for the length of trajectories with too few chains."""
        yield from super().misfits()
        if isinstance(self.kernel, HmcKernel) and self.kernel.steps is None and self.chains < 4:
            yield Misfit(("kernel", "steps"), f"expected a number: {self.chains} chains cannot find one, 4 can")

    def extent(self) -> dict[str, int]:
        """Say how large it is."""
        return {"chains": self.chains, "draws": self.draws}
