"""The rule that a control engineer would write: a velocity driven by the gradient, its sum and its change."""

from __future__ import annotations

from torch import Tensor

from fedmomentum.optim.elementwise import Decay, Kernel, elementwise
from fedmomentum.optim.hyper import Hyper, Schedule, checked, fit
from fedmomentum.optim.rule import Rule


def pid(
    *,
    lr: Hyper | Schedule,
    momentum: Hyper = 0.9,
    proportional: Hyper = 1.0,
    integral: Hyper = 0.0,
    derivative: Hyper = 0.0,
    weight_decay: Hyper = 0.0,
    decay: Decay = "l2",
) -> Rule:
    """Descend under PID control of the velocity.

        v <- momentum v + kP g_t + kI sum_{s<=t} g_s + kD (g_t - g_{t-1}),   x <- x - lr v,   g_{-1} = 0

    ``integral=derivative=0`` is the heavy ball and ``derivative=momentum`` torch's Nesterov. ``integral`` takes away
    the error that a constant disturbance leaves and the lag behind a moving optimum; ``derivative`` damps. (An et al.
    call the velocity itself the integral term, since they take the step, not the force, as the controller's output.)

    Args:
        lr: step size, at least 0: a number, ``[K]``, or a schedule.
        momentum: in [-1, 1]: a number or ``[K]``.
        proportional: kP, at least 0: a number or ``[K]``.
        integral: kI per step, at least 0: a number or ``[K]``.
        derivative: kD in steps, at least 0: a number or ``[K]``.
        weight_decay: at least 0: a number or ``[K]``.
        decay: ``l2`` or ``decoupled``.

    Raises:
        HyperparameterError: a hyperparameter is out of range.

    Reference: An et al., CVPR 2018, after their eq. 10.
    """
    beta = checked("momentum", momentum, -1.0, 1.0)
    kp, ki = checked("proportional", proportional, 0.0), checked("integral", integral, 0.0)
    kd = checked("derivative", derivative, 0.0)

    def begin(lr: Hyper, count: Tensor) -> Kernel:
        def kernel(g: Tensor, v: Tensor, total: Tensor, previous: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            total = total + g
            force = (g * fit(kp, g)).add_(total * fit(ki, g)).add_((g - previous).mul_(fit(kd, g)))
            v = (v * fit(beta, g)).add_(force)
            return v * fit(-lr, g), v, total, g.clone()

        return kernel

    slots = {"velocity": 0.0, "total": 0.0, "previous": 0.0}
    return elementwise(begin, slots=slots, lr=lr, weight_decay=weight_decay, decay=decay)
