"""Stochastic gradient Langevin dynamics: gradient descent with the noise that makes it a sampler."""

from __future__ import annotations

from fedmomentum.samplers.gradients import estimate_from
from fedmomentum.samplers.kernel import Estimate, Gradient, Kernel, LangevinInfo, Potential
from fedmomentum.samplers.noise import chain_keys, fold, normal_like
from fedmomentum.samplers.ravel import counter
from fedmomentum.samplers.schedules import Hyper, Value, each, root, times, value_at
from fedmomentum.trees import State, Tree, add, sub


def sgld_update(grads: Tree, noise: Tree, *, lr: Value, temperature: Value) -> Tree:
    """Give ``-lr dU + sqrt(2 lr T) xi``, the update of one step; ``noise`` is ``xi ~ N(0, 1)``."""
    return sub(times(noise, root(2.0 * lr * temperature)), times(grads, lr))


def sgld(
    potential: Potential | None = None,
    *,
    gradient: Gradient | None = None,
    estimate: Estimate | None = None,
    step_size: Hyper,
    temperature: Hyper = 1.0,
) -> Kernel:
    """Sample ``exp(-U / T)`` by ``x <- x - h dU(x) + sqrt(2 h T) xi``.

    On a Gaussian of precision P the stationary variance is ``(T / P) / (1 - h P / 2)``: there is no rejection, so the
    step biases the law at first order; gradient noise of variance V adds ``h V / (2 P)`` over the same denominator.

    Args:
        potential: ``U`` of one point; or give
        gradient: ``dU`` of stacked points; or
        estimate: a noisy gradient of stacked points from keys, see :func:`~fedmomentum.samplers.gradients.minibatch`.
        step_size: h, in units of x^2; a float, ``[C]`` or a schedule.
        temperature: T, at least 0.

    Raises:
        ValueError: not exactly one of the three gradients was given.

    Source: Welling and Teh 2011; arXiv:1506.04696.
    """
    direction = estimate_from(potential, gradient, estimate)

    def init(position: Tree) -> State:
        return {"position": dict(position), "step": {"count": counter(position)}}

    def step(key: int, state: State) -> tuple[State, LangevinInfo]:
        position, count = state["position"], state["step"]["count"]
        keys = chain_keys(key, len(count), count.device)
        lr, heat = value_at(step_size, count), value_at(temperature, count)
        grads = direction(position, fold(keys, 1))
        update = sgld_update(grads, normal_like(keys, position), lr=lr, temperature=heat)
        info = LangevinInfo(each(lr, count), each(float("nan"), count))
        return {"position": add(position, update), "step": {"count": count + 1}}, info

    return Kernel(init, step)
