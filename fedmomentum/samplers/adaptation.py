"""A warm-up that finds the step size (dual averaging) and the mass matrix (variances in windows that double)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedmomentum.samplers.draws import block_of
from fedmomentum.samplers.fields import Field, field_of
from fedmomentum.samplers.hmc import hmc, hmc_init
from fedmomentum.samplers.kernel import Gradient, Kernel, Potential
from fedmomentum.samplers.lengths import LEAST, ROUND, LengthSearch, chees_slope
from fedmomentum.samplers.metric import Dense, Diagonal, Metric
from fedmomentum.samplers.ravel import chains, unravel
from fedmomentum.samplers.transition import Luck, Point, Proposal, acceptance_of, common, flow_of, times, transition
from fedmomentum.streams import key
from fedmomentum.trees import Tree

MEMORY = 50.0
"""Transitions that the centre of the chains looks back, while a number of leapfrog steps is sought."""


@dataclass(frozen=True)
class DualAveraging:
    """Nesterov's dual averaging of ``log e`` so that the mean acceptance meets a target.

    ``s <- s + (target - a)``; ``log e = mu - s sqrt(t) / (gamma (t + t0))``; the answer is the mean of ``log e``
    weighted by ``t^-kappa``. All fields are ``[C]`` or shaped like the first step size. Hoffman and Gelman,
    arXiv:1111.4246, alg. 5.
    """

    mu: Tensor
    log_step: Tensor
    log_mean: Tensor
    debt: Tensor
    count: int = 0
    target: float = 0.8

    @classmethod
    def start(cls, step_size: Tensor, target: float) -> DualAveraging:
        """Begin at a step size; the search is drawn towards ten times as much."""
        log = step_size.log()
        return cls(log + math.log(10.0), log, torch.zeros_like(log), torch.zeros_like(log), 0, target)

    def update(
        self, acceptance: Tensor, *, gamma: float = 0.05, t0: float = 10.0, kappa: float = 0.75
    ) -> DualAveraging:
        """Take in the acceptance of one trajectory."""
        t = self.count + 1
        # The paper averages the debt with weight 1/(t + t0); what is carried here is that mean.
        debt = self.debt + (self.target - acceptance - self.debt) / (t + t0)
        log_step = self.mu - debt * (math.sqrt(t) / gamma)
        log_mean = self.log_mean + (log_step - self.log_mean) * t**-kappa
        return DualAveraging(self.mu, log_step, log_mean, debt, t, self.target)

    @property
    def step(self) -> Tensor:
        """The step size to try next."""
        return self.log_step.exp()

    @property
    def final(self) -> Tensor:
        """The step size to keep."""
        return self.log_mean.exp()


@dataclass(frozen=True)
class RunningMoments:
    """Running mean and squares of flat chains (Welford): ``mean [C, P]``, ``squares [C, P]`` or ``[C, P, P]``."""

    mean: Tensor
    squares: Tensor
    count: int = 0

    @classmethod
    def zeros(cls, flat: Tensor, *, dense: bool) -> RunningMoments:
        """Begin with nothing, for chains like ``flat [C, P]``."""
        wide = flat.double()
        return cls(torch.zeros_like(wide), torch.zeros_like(wide.unsqueeze(-1) * wide.unsqueeze(-2) if dense else wide))

    def update(self, flat: Tensor) -> RunningMoments:
        """Take in one draw of every chain."""
        x, n = flat.double(), self.count + 1
        before = x - self.mean
        mean = self.mean + before / n
        after = x - mean
        dense = self.squares.ndim == 3
        squares = self.squares + (before.unsqueeze(-1) * after.unsqueeze(-2) if dense else before * after)
        return RunningMoments(mean, squares, n)

    def covariance(self, *, pool: bool) -> Tensor:
        """Give the shrunk estimate ``n/(n+5) S + 5/(n+5) 1e-3 I`` (Stan's), of one chain each or of all together."""
        squares, n = self.squares, self.count
        if pool:
            spread = self.mean - self.mean.mean(0)
            extra = spread.unsqueeze(-1) * spread.unsqueeze(-2) if squares.ndim == 3 else spread**2
            squares, n = (squares + self.count * extra).sum(0), self.count * len(squares)
        eye = torch.eye(self.mean.shape[-1], dtype=squares.dtype) if self.squares.ndim == 3 else torch.ones(())
        return squares * (n / ((n + 5.0) * max(n - 1, 1))) + eye.to(squares) * (5e-3 / (n + 5.0))


def windows(warmup: int) -> tuple[int, list[int]]:
    """Give the first step of mass adaptation and the ends of its windows.

    75 steps settle, windows of 25, 50, 100, ... learn the mass, 50 steps tune the step size: Stan's scheme, in
    proportion 15 : 75 : 10 when the warm-up is shorter than 150 steps.
    """
    first, last, base = (75, 50, 25) if warmup >= 150 else (int(0.15 * warmup), int(0.1 * warmup), warmup)
    stop, ends, at = warmup - last, [], first
    while at < stop:
        # A window that could not be followed by one twice its size takes all that is left.
        at = stop if at + 3 * base > stop else at + base
        ends.append(at)
        base *= 2
    return first, ends


@dataclass(frozen=True)
class Adapted:
    """A kernel with what the warm-up found, and where it left the chains.

    Args:
        kernel: HMC with the step size and metric below.
        position: where the chains are, ``[C, *shape]``.
        step_size: ``[C]``.
        metric: the mass matrix.
        acceptance: mean Metropolis probability over the last stage of the warm-up ``[C]``.
        steps: leapfrog steps of a trajectory; the most where they were found, since their number is then random.
    """

    kernel: Kernel
    position: Tree
    step_size: Tensor
    metric: Metric
    acceptance: Tensor
    steps: int


def window_adaptation(
    potential: Potential | Field,
    position: Tree,
    *,
    seed: int,
    gradient: Gradient | None = None,
    warmup: int = 500,
    steps: int | None = 10,
    mass: Literal["diagonal", "dense"] = "diagonal",
    target: float = 0.8,
    temperature: float = 1.0,
    jitter: float = 0.2,
    pool: bool = True,
) -> Adapted:
    """Warm HMC up: find the step size that accepts a share ``target``, and a mass that makes the target round.

    Args:
        potential: ``U`` of one point, or the field of stacked points.
        position: starting points ``[C, *shape]``; spread them, so that R-hat means something.
        seed: of the warm-up's own streams.
        gradient: ``dU`` of stacked points, where it is known in closed form.
        warmup: transitions, at least 20.
        steps: leapfrog steps a trajectory; None finds how many pay, by
            :class:`~fedmomentum.samplers.lengths.LengthSearch`, and makes their number random.
        mass: ``diagonal`` learns variances, ``dense`` the covariance.
        target: the acceptance wanted, in (0, 1).
        temperature: T, positive.
        jitter: see :func:`~fedmomentum.samplers.hmc.hmc`.
        pool: the chains share one step size and mass, which learn C times as fast; without, a chain adapts alone, and
            its draws do not depend on the others.

    Raises:
        ValueError: ``warmup`` or ``target`` is out of its range, ``mass`` is neither of the two, or the number of steps
            is to be found by too few chains, or by each alone.

    Source: arXiv:1111.4246 (dual averaging); Stan reference manual, HMC algorithm parameters (windows).
    """
    if warmup < 20 or not 0 < target < 1 or mass not in ("diagonal", "dense"):
        raise ValueError("need warmup >= 20, target in (0, 1) and a mass that is 'diagonal' or 'dense'")
    if steps is None and (not pool or chains(position) < LEAST):
        raise ValueError(f"finding the number of steps takes {LEAST} chains that share it (pool=True): give steps")
    field, number, dense = field_of(potential, gradient), chains(position), mass == "dense"
    flow, point = flow_of(field, position), Point.of(hmc_init(field, position))
    flat = point.position
    metric: Metric = Diagonal(torch.ones(flat.shape[-1], dtype=flat.dtype, device=flat.device))
    first, ends = windows(warmup)
    moments = RunningMoments.zeros(flat, dense=dense)
    heat = temperature**0.5

    def shared(x: Tensor) -> Tensor:
        return x.mean(0, keepdim=True).expand(number) if pool else x

    def lucks(steps: range) -> Luck:
        return Luck.draw([key(seed, "warmup", step=at) for at in steps], flat)

    def move(point: Point, luck: Luck, at: int, step_size: Tensor, count: int) -> tuple[Point, Proposal, Tensor]:
        noise = luck.normals[at] * heat
        point, proposal = transition(
            flow,
            point,
            noise,
            0.5 * noise.square().sum(-1),
            luck.patience[at] * temperature,
            step_size=times(common(step_size) if pool else step_size, 1.0 + jitter * luck.shake[at], flat),
            steps=count,
            metric=metric,
        )
        return point, proposal, acceptance_of(proposal.error, temperature)

    def guess(point: Point, at: int, step_size: Tensor) -> Tensor:
        luck = lucks(range(at, at + 1))
        return _reasonable(lambda e: shared(move(point, luck, 0, e, 1)[2]), step_size, target)

    start = torch.ones(number, dtype=torch.float64, device=flat.device)
    search = DualAveraging.start(guess(point, 0, start), target)
    length = LengthSearch(math.log(10.0 * float(search.step[0])))
    centre = flat.mean(0)
    total = torch.zeros(number, dtype=torch.float64, device=flat.device)
    block = block_of(flat.numel())
    for t in range(warmup):
        if t % block == 0:
            luck = lucks(range(t + 1, min(t + block, warmup) + 1))
        size, before = search.step, point.position
        count = steps or luck.number(t % block, length.steps(float(size[0])))
        point, proposal, acceptance = move(point, luck, t % block, size, count)
        search = search.update(shared(acceptance))
        if steps is None:
            centre = centre + (point.position.mean(0) - centre) / min(t + 1.0, MEMORY)
            length = length.update(
                chees_slope(
                    metric.whiten(before - centre),
                    metric.whiten(proposal.position - centre),
                    metric.whiten(proposal.velocity),
                    acceptance,
                    time=count * float(size[0]),
                ),
                settled=t >= ends[-1],
            )
        if t >= ends[-1]:
            total = total + acceptance
        if first <= t < ends[-1]:
            moments = moments.update(point.position)
            if t + 1 in ends:
                covariance = moments.covariance(pool=pool).to(flat.dtype)
                metric = Dense(covariance) if dense else Diagonal(covariance)
                moments = RunningMoments.zeros(flat, dense=dense)
                search = DualAveraging.start(guess(point, -t - 1, search.step), target)
                length = LengthSearch(math.log(ROUND))  # whatever the old mass needed
    step_size = search.final
    found = steps or length.final(float(step_size[0]))
    kernel = hmc(
        field,
        step_size=step_size,
        steps=found,
        random_steps=steps is None,
        metric=metric,
        temperature=temperature,
        jitter=jitter,
    )
    return Adapted(
        kernel, unravel(point.position, position), step_size, metric, total / max(warmup - ends[-1], 1), found
    )


def _reasonable(acceptance: Callable[[Tensor], Tensor], step_size: Tensor, target: float) -> Tensor:
    """Double or halve each step size until one leapfrog step crosses the target: the order of magnitude to search
    from.
    """
    grow = acceptance(step_size) > target
    going = torch.ones_like(grow)
    for _ in range(60):
        trial = torch.where(grow, step_size * 2.0, step_size * 0.5)
        step_size = torch.where(going, trial, step_size)
        going = going & ((acceptance(step_size) > target) == grow)
        if not bool(going.any()):
            break
    return step_size
