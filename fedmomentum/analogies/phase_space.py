"""An optimizer in noise is a particle in phase space: is it in equilibrium, or is probability flowing in circles?

Linearised, positions and velocities obey ``dz = -B z dt + sqrt(2 D) dW``. Their covariance S solves the Lyapunov
equation, and what is left of the drift beside it is a current. In phase space part of that current is only
Hamiltonian motion, which flows in equilibrium too; what breaks time reversal is the rest, and it is zero exactly when
``K = B_irr S - D`` is. Gradient noise that does not commute with the curvature breaks it: stochastic gradient descent
is not a thermometer but an engine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedmomentum.analogies.descent import steps_of
from fedmomentum.analogies.result import Array, Claim, Measured, as_array
from fedmomentum.optim import make_rule
from fedmomentum.streams import torch_stream


@dataclass(frozen=True)
class Flow:
    """A linear stochastic flow in its stationary state.

    Args:
        covariance: S of ``B S + S B^T = 2 D``.
        circulation: Q = B S - D, antisymmetric; in phase space it is not zero even in equilibrium.
        irreversible: K = B_irr S - D; zero if and only if the state is one of equilibrium.
        entropy_production: rate at which entropy is made, per unit of time.
        raw_curl: antisymmetric part of the drift's own Jacobian -B, as a norm: it changes when velocities are measured
            in other units, so it says nothing of equilibrium.
        equilibrium: whether K vanishes to rounding.
    """

    covariance: Array
    circulation: Array
    irreversible: Array
    entropy_production: float
    raw_curl: float
    equilibrium: bool


def predict(drift: Array, diffusion: Array, *, parity: Array | None = None) -> Flow:
    """Solve for the stationary state of ``dz = -B z dt + sqrt(2 D) dW`` and how far it is from equilibrium.

        B S + S B^T = 2 D,   Q = B S - D,   current J = -Q S^-1 z p(z)
        B_irr = (B + P B P)/2,   K = B_irr S - D,   entropy production tr(D^+ K S^-1 K^T)

    Args:
        drift: B, ``[n, n]``, per unit of time; its eigenvalues have positive real parts.
        diffusion: D, ``[n, n]``, symmetric and at least 0; zero rows are coordinates without noise.
        parity: P's diagonal, ``[n]``: +1 for coordinates that keep their sign when time is reversed (positions), -1 for
            those that do not (velocities). All +1 unless given.

    Raises:
        ValueError: shapes differ, D is not a covariance, or the drift is not stable.

    Source: Risken, The Fokker-Planck Equation, section 6.4; Chaudhari and Soatto, arXiv:1710.11029.
    """
    from scipy.linalg import solve_continuous_lyapunov

    b, d = as_array(drift), as_array(diffusion)
    n = len(b)
    if b.shape != (n, n) or d.shape != (n, n):
        raise ValueError(f"drift {list(b.shape)} and diffusion {list(d.shape)} must both be [n, n]")
    if not np.allclose(d, d.T) or np.linalg.eigvalsh(d).min() < -1e-12 * np.abs(d).max():
        raise ValueError("the diffusion must be symmetric without negative eigenvalues")
    if np.linalg.eigvals(b).real.min() <= 0:
        raise ValueError("the drift is not stable: an eigenvalue of B has no positive real part")
    sign = np.ones(n) if parity is None else as_array(parity)
    if sign.shape != (n,) or not np.all(np.abs(sign) == 1):
        raise ValueError(f"parity must hold {n} numbers +1 or -1")
    s = as_array(solve_continuous_lyapunov(b, 2 * d))
    s = (s + s.T) / 2
    k = (b + sign[:, None] * b * sign) / 2 @ s - d
    produced = float(np.trace(np.linalg.pinv(d) @ k @ np.linalg.solve(s, k.T)))
    return Flow(
        covariance=s,
        circulation=b @ s - d,
        irreversible=k,
        entropy_production=produced,
        raw_curl=float(np.linalg.norm(b - b.T)) / math.sqrt(2),
        equilibrium=bool(np.abs(k).max() < 1e-9 * max(np.abs(d).max(), np.abs(b @ s).max())),
    )


def underdamped(curvature: Array, noise: Array, friction: float) -> tuple[Array, Array, Array]:
    """Give ``(B, D, parity)`` of positions and velocities: ``dx = v dt,  dv = -H x dt - c v dt + sqrt(2 C) dW``.

    Args:
        curvature: H, ``[n, n]``.
        noise: C, ``[n, n]``.
        friction: c, per unit of time.
    """
    h, c = as_array(curvature), as_array(noise)
    zero, one = np.zeros_like(h), np.eye(len(h))
    drift = np.block([[zero, -one], [h, friction * one]])
    diffusion = np.block([[zero, zero], [zero, c]])
    return drift, diffusion, np.concatenate([np.ones(len(h)), -np.ones(len(h))])


def optimizer(curvature: Array, noise: Array, *, lr: float, momentum: float) -> tuple[Array, Array, Array]:
    """Give ``(B, D, parity)`` of the heavy ball in gradient noise, as a spring of the central difference.

        time per step d = sqrt(lr),   mass m = (1 + beta)/2,   H/m,   c = (1 - beta)/(d m),   C = d V/(2 m^2)

    Args:
        curvature: H, ``[n, n]``.
        noise: V, covariance of one gradient, ``[n, n]``.
        lr: learning rate.
        momentum: beta.
    """
    d, mass = math.sqrt(lr), (1 + momentum) / 2
    return underdamped(as_array(curvature) / mass, as_array(noise) * d / (2 * mass**2), (1 - momentum) / (d * mass))


def noise_covariance(angle: float, *, ratio: float = 8.0) -> Array:
    """Give a covariance of trace 2 in the plane, ``ratio`` times longer along an axis at ``angle`` than across it."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return as_array(turn @ np.diag([2 * ratio / (1 + ratio), 2 / (1 + ratio)]) @ turn.T)


def simulate(
    *,
    lr: float = 0.02,
    momentum: float = 0.8,
    stiff: float = 4.0,
    angle: float = math.pi / 4,
    ratio: float = 8.0,
    chains: int = 4000,
    steps: int = 400,
    seed: int = 0,
) -> Measured:
    """Run a crowd of optimizers in a bowl of curvatures 1 and ``stiff`` under correlated gradient noise.

    Plain descent shows the current of the overdamped flow; the heavy ball that of positions and velocities.

    Args:
        lr: learning rate; for plain descent it is the step of time.
        momentum: of the heavy ball.
        stiff: the second curvature.
        angle: of the noise's long axis to the first curvature's; 0 commutes and is equilibrium.
        ratio: of the noise's variances.
        chains: optimizers that run at once.
        steps: over which moments are averaged.
        seed: of the streams "phase space ...".
    """
    h = np.diag([1.0, stiff])
    v = noise_covariance(angle, ratio=ratio)
    # Overdamped: x <- x - lr (H x + noise) is the flow dx = -H x dt + sqrt(2 D) dW with dt = lr and D = lr V/2.
    flow = predict(h, lr * v / 2)
    covariance, lagged, _ = _moments("sgd", h, v, lr, 0.0, chains, steps, seed)
    turning = (lagged - lagged.T) / 2  # of E[x_{t+1} x_t^T], which is -dt Q
    size = float(np.abs(flow.covariance).max())
    spread = max(abs(float(flow.circulation[0, 1])), 0.05 * size) * lr
    closed = lr / 2 * v[0, 1] * (1 - stiff) / (1 + stiff)
    claims = [
        Claim(
            "variance along the flat axis", float(flow.covariance[0, 0]), float(covariance[0, 0]), 0.05, "parameter^2"
        ),
        Claim(
            "circulation, Lyapunov against D12 (h1 - h2)/(h1 + h2)",
            closed,
            float(flow.circulation[0, 1]),
            1e-9,
            scale=max(abs(closed), 1e-6 * size),
        ),
        Claim(
            "circulation of plain descent",
            -lr * float(flow.circulation[0, 1]),
            float(turning[0, 1]),
            0.15,
            "parameter^2",
            scale=spread,
        ),
    ]
    b, d, parity = optimizer(h, v, lr=lr, momentum=momentum)
    ball = predict(b, d, parity=parity)
    state, _, later = _moments("heavy_ball", h, v, lr, momentum, chains, steps, seed)
    irreversible = _irreversible(state, b, d, parity)
    produced = _entropy(state, irreversible, d)
    scale = float(np.abs(d).max())
    claims += [
        Claim(
            "position variance of the heavy ball", float(ball.covariance[0, 0]), float(state[0, 0]), 0.08, "parameter^2"
        ),
        Claim(
            "K, mixed position-velocity part",
            float(ball.irreversible[2, 1]),
            float(irreversible[2, 1]),
            0.1,
            scale=max(abs(float(ball.irreversible[2, 1])), scale / 2),
        ),
        Claim(
            "entropy production of the heavy ball",
            ball.entropy_production,
            produced,
            0.25,
            "per time",
            scale=max(ball.entropy_production, 0.1 * float(b[2, 2])),
        ),
    ]
    exact = _lagged_exactly(h, v, lr, momentum, 8)
    asymmetry = (later - later.T) / 2
    claims.append(
        Claim(
            "time asymmetry of the heavy ball's positions",
            float(exact[0, 1] - exact[1, 0]) / 2,
            float(asymmetry[0, 1]),
            0.2,
            "parameter^2",
            scale=max(abs(float(exact[0, 1] - exact[1, 0])) / 2, 0.05 * float(state[0, 0])),
        )
    )
    settings = {
        "lr": lr,
        "momentum": momentum,
        "stiff": stiff,
        "angle": angle,
        "ratio": ratio,
        "chains": chains,
        "steps": steps,
        "seed": seed,
    }
    series = {"covariance": ball.covariance, "measured covariance": state, "irreversible": ball.irreversible}
    return Measured("phase_space", settings, tuple(claims), series)


@dataclass(frozen=True)
class Arrow:
    """How visibly a path tells the direction of time.

    Args:
        index: |C - C^T|/|C + C^T| of the lagged covariance of positions: zero in equilibrium.
        floor: the index that a reversible path of this length would show by chance.
    """

    index: float
    floor: float


def probe(path: Tensor, *, lag: int = 1, dimensions: int = 8, seed: int = 0) -> Arrow:
    """Measure the time asymmetry of a path of parameters: the sign that it is not in equilibrium.

        C = E[x_t x_{t+lag}^T] of the path, projected on its main directions and scaled to unit variance

    Positions keep their sign when time is reversed, so in equilibrium C is symmetric, with momentum as without.

    Args:
        path: ``[T, P]`` of a stationary stretch of training.
        lag: steps.
        dimensions: directions kept, those of the largest variance; at most P.
        seed: of the stream "phase space probe", which draws the reversals that the floor is made of.

    Raises:
        ValueError: fewer than four times ``lag`` steps, or fewer than two directions with any variance.
    """
    if path.ndim != 2 or len(path) < 4 * lag + 8 or lag < 1:
        raise ValueError(f"need a [T, P] path with T >= {4 * lag + 8}, not {list(path.shape)}")
    x = path.double() - path.double().mean(0)
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    keep = min(dimensions, int((s > 1e-9 * s[0]).sum()))
    if keep < 2:
        raise ValueError("the path varies in fewer than two directions: there is nothing to circulate")
    z = u[:, :keep] * math.sqrt(len(x))
    products = z[:-lag, :, None] * z[lag:, None, :]
    asymmetric = (products - products.mT) / 2
    whole = float(products.mean(0).norm())
    # Reversed, each block of the path has its sign turned and is as likely; blocks keep the correlations in time.
    blocks = torch.stack([block.mean(0) for block in asymmetric.chunk(32)])
    signs = torch.randint(0, 2, (200, len(blocks), 1, 1), generator=torch_stream(seed, "phase space probe")) * 2.0 - 1
    chance = float((signs * blocks).mean(1).flatten(1).norm(dim=1).mean())
    return Arrow(index=float(asymmetric.mean(0).norm()) / whole, floor=chance / whole)


def figure(folder: Path) -> None:
    """Draw ``phase_space.svg`` and ``.png``: the current in equilibrium and out of it, and what makes entropy."""
    from fedmomentum.analogies.drawing import BLUE, GREY, INK, ORANGE, sheet

    h = np.diag([1.0, 4.0])
    cases = ((0.0, "noise along the axes: equilibrium"), (math.pi / 4, "noise turned by 45°: a current"))
    with sheet(folder, "phase_space", 3, width=11.0, height=3.6) as (_, (left, middle, right)):
        grid = np.linspace(-2.6, 2.6, 61)
        for axis, (angle, title) in zip((left, middle), cases, strict=True):
            flow = predict(h, noise_covariance(angle) / 2)
            inverse = np.linalg.inv(flow.covariance)
            points = np.stack(np.meshgrid(grid, grid), -1)
            density = np.exp(-np.einsum("...i,ij,...j", points, inverse, points) / 2)
            axis.contourf(grid, grid, density, levels=np.linspace(0.03, 1, 9), cmap="Blues")
            sparse = np.stack(np.meshgrid(np.linspace(-2.4, 2.4, 15), np.linspace(-1.2, 1.2, 11)), -1)
            weight = np.exp(-np.einsum("...i,ij,...j", sparse, inverse, sparse) / 2)
            current = -np.einsum("ij,jk,...k", flow.circulation, inverse, sparse) * weight[..., None]
            sparse, current = sparse[weight > 0.02], current[weight > 0.02]
            axis.quiver(
                sparse[..., 0],
                sparse[..., 1],
                current[..., 0],
                current[..., 1],
                color=ORANGE,
                scale=4,
                width=0.007,
                rasterized=True,
            )
            axis.set(title=title, xlabel="flat direction", ylim=(-1.4, 1.4))
            axis.grid(False)
        left.set(ylabel="stiff direction")
        angles = np.linspace(0, math.pi / 2, 61)
        for momentum, colour in ((0.5, GREY), (0.8, BLUE), (0.95, INK)):
            made = []
            for angle in angles:
                b, d, parity = optimizer(h, noise_covariance(float(angle)), lr=0.02, momentum=momentum)
                made.append(predict(b, d, parity=parity).entropy_production)
            right.plot(np.degrees(angles), made, color=colour, label=f"heavy ball, β = {momentum}")
        right.set(
            title="Entropy made per unit of time",
            xlabel="angle of noise to curvature [°]",
            ylabel="entropy production",
            xticks=[0, 30, 60, 90],
        )
        right.set(ylim=(0, 1.9))
        right.legend(loc="upper right", fontsize=7.5)


def _moments(
    name: str, h: Array, v: Array, lr: float, momentum: float, chains: int, steps: int, seed: int
) -> tuple[Array, Array, Array]:
    """Give the covariance of (position, velocity), E[x_{t+1} x_t^T], and E[x_{t+8} x_t^T], over chains and steps."""
    draw = torch_stream(seed, f"phase space {name}")
    factor = torch.as_tensor(np.linalg.cholesky(v)).T
    curvature = torch.as_tensor(h)
    rule = make_rule(name, lr=lr, **({"momentum": momentum} if name != "sgd" else {}))

    def gradient(x: Tensor) -> Tensor:
        return x @ curvature + torch.randn(x.shape, generator=draw, dtype=torch.float64) @ factor

    n = len(h)
    # From the uncoupled variances, so that only the correlations have to settle.
    start = torch.randn(chains, n, generator=draw, dtype=torch.float64)
    start = start * torch.as_tensor(np.sqrt(lr * np.diag(v) / (2 * (1 - momentum) * np.diag(h))))
    wait = math.ceil(5 * (1 - momentum) / lr + 5 / (1 - momentum))
    now, lagged, later = torch.zeros(2 * n, 2 * n).double(), torch.zeros(n, n).double(), torch.zeros(n, n).double()
    recent: list[Tensor] = [start]
    time = math.sqrt(lr)
    for t, x in zip(range(wait + steps), steps_of(rule, gradient, start), strict=False):
        recent.append(x)
        if t >= wait:
            # Position midway between steps and velocity across the step: both belong to the same instant.
            z = torch.cat([(x + recent[-2]) / 2, (x - recent[-2]) / time], dim=1)
            now += z.T @ z / (chains * steps)
            lagged += x.T @ recent[-2] / (chains * steps)
            later += x.T @ recent[-9] / (chains * steps)
        if len(recent) > 9:
            recent.pop(0)
    covariance = as_array(now)
    return (covariance[:n, :n] if name == "sgd" else covariance), as_array(lagged), as_array(later)


def _irreversible(s: Array, b: Array, d: Array, parity: Array) -> Array:
    return as_array((b + parity[:, None] * b * parity) / 2 @ s - d)


def _entropy(s: Array, k: Array, d: Array) -> float:
    return float(np.trace(np.linalg.pinv(d) @ k @ np.linalg.solve(s, k.T)))


def _lagged_exactly(h: Array, v: Array, lr: float, momentum: float, lag: int) -> Array:
    """Give E[x_{t+lag} x_t^T] of the discrete heavy ball, from its own Lyapunov equation."""
    from scipy.linalg import solve_discrete_lyapunov

    n = len(h)
    one, zero = np.eye(n), np.zeros((n, n))
    step = np.block([[(1 + momentum) * one - lr * h, -momentum * one], [one, zero]])
    noise = np.block([[lr**2 * v, zero], [zero, zero]])
    return as_array((np.linalg.matrix_power(step, lag) @ solve_discrete_lyapunov(step, noise))[:n, :n])
