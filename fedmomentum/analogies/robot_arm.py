"""A robot arm with one joint, gravity and a motor that is only so strong, under PID control."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedmomentum.analogies.result import Array, as_array


@dataclass(frozen=True)
class Arm:
    """A robot arm with one joint: ``inertia q'' = torque - gravity sin q - friction q'``, q = 0 hanging down.

    Args:
        inertia: kg m^2.
        gravity: m g l, the torque that holds the arm level, N m.
        friction: of the joint, N m s.
        limit: largest torque of the motor, N m.
        dt: time step, s.
    """

    inertia: float = 0.5
    gravity: float = 0.0
    friction: float = 0.0
    limit: float = math.inf
    dt: float = 0.02

    def hold(self, target: float, stiffness: float) -> float:
        """Give the angle at which a spring ``stiffness (target - q)``, cut at the limit, balances gravity.

        Raises:
            ValueError: the target is beyond the horizontal, where the balance need not be unique.
        """
        from scipy.optimize import brentq

        if not 0 <= target <= math.pi / 2:
            raise ValueError(f"target must lie in [0, pi/2], not {target}")

        def balance(angle: float) -> float:
            return min(stiffness * (target - angle), self.limit) - self.gravity * math.sin(angle)

        return target if self.gravity == 0 else float(brentq(balance, 0.0, target, xtol=1e-14))

    def reach(self, target: float, kp: float, kd: float, steps: int, *, ki: float = 0.0) -> Array:
        """Give the angles ``[steps + 1]`` of the arm under PID control, from hanging at rest.

        The motor's torque per step^2 is ``inertia/dt^2 (kp e_t - kd (q_t - q_{t-1}) + ki sum e)``, cut at the limit;
        the sum stops while the motor is saturated (no wind-up).

        Args:
            target: rad.
            kp: per step^2, as in :class:`Controller`.
            kd: per step.
            steps: of dt.
            ki: per step^3.
        """
        unit = self.inertia / self.dt**2
        q, before, total = 0.0, 0.0, 0.0
        path = [q]
        for _ in range(steps):
            error = target - q
            wanted = unit * (kp * error - kd * (q - before) + ki * (total + error))
            torque = max(-self.limit, min(self.limit, wanted))
            total += error if torque == wanted else 0.0
            pull = self.gravity * math.sin(q) + self.friction * (q - before) / self.dt
            q, before = 2 * q - before + (torque - pull) / unit, q
            path.append(q)
        return as_array(path)
