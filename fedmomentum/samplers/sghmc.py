"""Stochastic gradient Hamiltonian Monte Carlo: the heavy ball with friction paid back as noise."""

from __future__ import annotations

import torch
from torch import Tensor

from fedmomentum.samplers.gradients import estimate_from
from fedmomentum.samplers.kernel import Estimate, Gradient, Kernel, LangevinInfo, Potential
from fedmomentum.samplers.noise import chain_keys, fold, normal_like
from fedmomentum.samplers.ravel import counter, size
from fedmomentum.samplers.schedules import Hyper, Value, each, root, times, value_at
from fedmomentum.trees import State, Tree, add, dot, sub, zeros_like


def sghmc_update(
    grads: Tree,
    velocity: Tree,
    noise: Tree,
    *,
    lr: Value,
    friction: Value,
    temperature: Value,
    noise_variance: Value = 0.0,
) -> Tree:
    """Give ``v <- (1 - al) v - eta dU + sqrt(2 (al T - bh) eta) xi``, ``bh = eta V / 2``; then ``x <- x + v``.

    ``al`` (friction) is ``1 - beta`` of the heavy ball, ``eta`` its learning rate, ``V`` the variance of the gradient
    noise, whose heat ``bh`` the injected noise leaves out. arXiv:1402.4102, eq. 15.

    Raises:
        ValueError: the gradient noise alone is hotter than the friction can cool to T (``bh > al T > 0``).
    """
    heat = _injected(lr, friction, temperature, noise_variance)
    kept = times(velocity, 1.0 - friction)
    return add(sub(kept, times(grads, lr)), times(noise, root(2.0 * heat * lr)))


def _injected(lr: Value, friction: Value, temperature: Value, noise_variance: Value) -> Value:
    wanted = friction * temperature
    if not isinstance(noise_variance, Tensor) and noise_variance == 0.0:
        return wanted
    own = 0.5 * lr * noise_variance
    wanted_, own_ = torch.as_tensor(wanted), torch.as_tensor(own)
    if bool(((own_ > wanted_) & (wanted_ > 0)).any()):
        raise ValueError(
            f"gradient noise heats by lr V / 2 = {own}, more than friction x temperature = {wanted}: "
            "lower the step size or raise the friction"
        )
    return torch.where(wanted_ > 0, wanted_ - own_, torch.zeros_like(wanted_ - own_))


def sghmc(
    potential: Potential | None = None,
    *,
    gradient: Gradient | None = None,
    estimate: Estimate | None = None,
    step_size: Hyper,
    friction: Hyper = 0.1,
    temperature: Hyper = 1.0,
    noise_variance: Hyper = 0.0,
) -> Kernel:
    """Sample ``exp(-U / T)`` by ``v <- (1 - al) v - eta dU + N(0, 2 (al T - bh) eta)``, ``x <- x + v``, ``bh = eta V
    / 2``.

    On a Gaussian of curvature h with exact gradients the stationary variance is ``(T / h) / (1 - eta h / (2 (2 -
    al)))``; with gradient noise of variance V that is not corrected for it is ``1 + bh / (al T)`` times that.

    Args:
        potential: ``U`` of one point; or give
        gradient: ``dU`` of stacked points; or
        estimate: a noisy gradient of stacked points from keys.
        step_size: eta, in units of x^2 (the square of a time step); a float, ``[C]`` or a schedule.
        friction: al, the fraction of velocity lost a step, in (0, 1]; ``1 - momentum``.
        temperature: T, at least 0.
        noise_variance: V, the variance of each coordinate of the gradient estimate; 0 leaves its heat uncorrected.

    Raises:
        ValueError: not exactly one gradient was given, or ``eta V / 2 > al T`` at a step.

    Source: arXiv:1402.4102.
    """
    direction = estimate_from(potential, gradient, estimate)

    def init(position: Tree) -> State:
        return {"position": dict(position), "velocity": zeros_like(position), "step": {"count": counter(position)}}

    def step(key: int, state: State) -> tuple[State, LangevinInfo]:
        position, count = state["position"], state["step"]["count"]
        keys = chain_keys(key, len(count), count.device)
        lr = value_at(step_size, count)
        velocity = sghmc_update(
            direction(position, fold(keys, 1)),
            state["velocity"],
            normal_like(keys, position),
            lr=lr,
            friction=value_at(friction, count),
            temperature=value_at(temperature, count),
            noise_variance=value_at(noise_variance, count),
        )
        kinetic = dot(velocity, velocity, leading=1) / (size(position) * each(lr, count))
        state = {"position": add(position, velocity), "velocity": velocity, "step": {"count": count + 1}}
        return state, LangevinInfo(each(lr, count), kinetic)

    return Kernel(init, step)
