"""In a game the gradient turns instead of descending, and momentum that helps a descent drives the players apart.

On ``min_x max_y xy`` the vector field of both players is a pure rotation. Played at once, descent spirals outwards,
and no momentum that both share stops it; played in turns it circles, positive momentum makes it spiral out, and
*negative* momentum makes it converge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedmomentum.analogies.result import Array, Claim, Measured, as_array
from fedmomentum.analogies.ring_gan import ring_gan
from fedmomentum.optim import make_rule
from fedmomentum.streams import torch_stream


@dataclass(frozen=True)
class Play:
    """How a bilinear game goes.

    Args:
        radius: spectral radius of one round: the factor by which the players' distance to the equilibrium changes.
        small_lr: its approximation to second order in lr, in turns only (nan otherwise).
        converges: whether the radius is below one.
    """

    radius: float
    small_lr: float
    converges: bool


def predict(*, lr: float = 0.1, momentum_x: float = -0.5, momentum_y: float = 0.0, turns: bool = True) -> Play:
    """Give the spectral radius of gradient play with heavy balls on ``min_x max_y xy``.

        at once   (z - 1)^2 (z - b1)(z - b2) + lr^2 z^2 = 0
        in turns  (z - 1)^2 (z - b1)(z - b2) + lr^2 z^3 = 0
        small lr, in turns: rho^2 ~ 1 + lr^2/((1 - b1)(1 - b2)) (b1/(1 - b1) + b2/(1 - b2))

    Args:
        lr: learning rate of both players.
        momentum_x: b1, in (-1, 1).
        momentum_y: b2, in (-1, 1).
        turns: y sees the x that has already moved.

    Raises:
        ValueError: lr is not positive or a momentum outside (-1, 1).

    Source: Gidel et al. 2019, arXiv:1807.04740.
    """
    if not (lr > 0 and -1 < momentum_x < 1 and -1 < momentum_y < 1):
        raise ValueError(f"need lr > 0 and momenta in (-1, 1), not {lr}, {momentum_x}, {momentum_y}")
    polynomial = np.polymul([1, -2, 1], [1, -(momentum_x + momentum_y), momentum_x * momentum_y])
    polynomial[1 if turns else 2] += lr**2
    radius = float(np.abs(np.roots(polynomial)).max())
    b1, b2 = momentum_x, momentum_y
    square = 1 + lr**2 / ((1 - b1) * (1 - b2)) * (b1 / (1 - b1) + b2 / (1 - b2))
    return Play(
        radius=radius, small_lr=math.sqrt(max(square, 0.0)) if turns else math.nan, converges=radius < 1 - 1e-12
    )


def play(
    *, lr: float, momentum_x: float, momentum_y: float, turns: bool, steps: int, start: tuple[float, float] = (1.0, 1.0)
) -> Array:
    """Give the path ``[steps + 1, 2]`` of two heavy balls that play ``min_x max_y xy``."""
    rules = [make_rule("heavy_ball", lr=lr, momentum=b) for b in (momentum_x, momentum_y)]
    x, y = (torch.tensor(value, dtype=torch.float64) for value in start)
    states = [rule.init({"z": z}) for rule, z in zip(rules, (x, y), strict=True)]
    path = [start]
    for _ in range(steps):
        move_x, states[0] = rules[0].update({"z": y}, states[0], {"z": x})
        seen = x + move_x["z"] if turns else x
        move_y, states[1] = rules[1].update({"z": -seen}, states[1], {"z": y})  # y climbs
        x, y = x + move_x["z"], y + move_y["z"]
        path.append((float(x), float(y)))
    return as_array(path)


def simulate(
    *,
    lr: float = 0.1,
    momentum_x: float = -0.5,
    momentum_y: float = 0.0,
    turns: bool = True,
    steps: int = 3000,
    gan_steps: int = 0,
    seed: int = 0,
) -> Measured:
    """Play the bilinear game and measure how fast its orbit grows or shrinks.

    Args:
        lr: of both players.
        momentum_x: of the minimiser.
        momentum_y: of the maximiser.
        turns: y sees the x that has already moved.
        steps: rounds.
        gan_steps: rounds of a small GAN whose generator has momentum_x and whose discriminator has momentum_y; 0: none.
        seed: of the GAN.
    """
    expected = predict(lr=lr, momentum_x=momentum_x, momentum_y=momentum_y, turns=turns)
    settings = {"lr": lr, "momentum_x": momentum_x, "momentum_y": momentum_y, "turns": turns, "steps": steps}
    settings |= {"gan_steps": gan_steps, "seed": seed}
    # Stop before an orbit leaves the range of floating point, or shrinks to where rounding drives it.
    reach = abs(math.log(expected.radius))
    steps = min(steps, int(600 / reach)) if reach > 0 else steps
    path = play(lr=lr, momentum_x=momentum_x, momentum_y=momentum_y, turns=turns, steps=steps)
    growth = _growth(path)
    scale = max(abs(expected.radius - 1), 1e-4)
    claims = [Claim("radius per round", expected.radius, growth, 0.05, "per step", scale=scale)]
    if turns and lr <= 0.2 and (momentum_x, momentum_y) != (0.0, 0.0):
        small = Claim(
            "radius per round, to second order in lr", expected.small_lr, growth, 0.25, "per step", scale=scale
        )
        claims.append(small)
    circle = play(lr=lr, momentum_x=0.0, momentum_y=0.0, turns=True, steps=1000)
    if lr < 2:
        energy = circle[:, 0] ** 2 + circle[:, 1] ** 2 - lr * circle[:, 0] * circle[:, 1]
        claims.append(
            Claim(
                "orbit in turns without momentum stays on its ellipse",
                0.0,
                float(np.ptp(energy)),
                1e-9,
                scale=float(energy[0]),
            )
        )
    spiral = play(lr=lr, momentum_x=0.0, momentum_y=0.0, turns=False, steps=200)
    claims.append(Claim("growth at once without momentum", math.sqrt(1 + lr**2), _growth(spiral), 1e-9, "per step"))
    series: dict[str, Array] = {"path": path}
    if gan_steps:
        game = ring_gan(momenta=((momentum_x, momentum_y), (0.9, 0.9)), steps=gan_steps, seed=seed)
        mine, heavy = game.modes_covered
        name = "GAN: modes of 8 that these momenta cover, at least those of 0.9"
        claims.append(Claim(name, heavy, mine, 0.0, "modes", relation="at_least"))
        series["GAN samples"] = game.samples[0]
    return Measured("games", settings, tuple(claims), series)


@dataclass(frozen=True)
class Rotation:
    """How much of a vector field turns.

    Args:
        fraction: |A|^2/(|A|^2 + |S|^2) of the Jacobian's antisymmetric and symmetric parts: 0 a descent, 1 a rotation.
        antisymmetric: Frobenius norm of A, estimated.
        symmetric: Frobenius norm of S, estimated.
    """

    fraction: float
    antisymmetric: float
    symmetric: float


def probe(field: Callable[[Tensor], Tensor], point: Tensor, *, probes: int = 8, seed: int = 0) -> Rotation:
    """Measure how much of a game's (or a federation's) update field turns, without forming its Jacobian J.

        |A v|, |S v| with A = (J - J^T)/2, S = (J + J^T)/2, averaged over random signs v (Hutchinson)

    Args:
        field: from a point ``[P]`` to the players' gradients ``[P]``, each of its own loss; differentiable.
        point: ``[P]``.
        probes: random vectors; the error falls with their root.
        seed: of the stream "games probe".

    Source: Balduzzi et al. 2018, arXiv:1802.05642, for the decomposition.
    """
    draw = torch_stream(seed, "games probe")
    antisymmetric = symmetric = 0.0
    for _ in range(probes):
        v = torch.randint(0, 2, point.shape, generator=draw).to(point) * 2 - 1
        forward: Tensor = torch.func.jvp(field, (point,), (v,))[1]
        backward: Tensor = torch.func.vjp(field, point)[1](v)[0]
        antisymmetric += float(((forward - backward) ** 2).sum()) / 4 / probes
        symmetric += float(((forward + backward) ** 2).sum()) / 4 / probes
    total = antisymmetric + symmetric
    return Rotation(
        fraction=antisymmetric / total if total > 0 else 0.0,
        antisymmetric=math.sqrt(antisymmetric),
        symmetric=math.sqrt(symmetric),
    )


def figure(
    folder: Path, *, lr: float = 0.3, momentum_x: float = -0.5, momentum_y: float = 0.0, turns: bool = True
) -> None:
    """Draw ``games.svg`` and ``.png``: orbits, the radius over both momenta, and a small GAN."""
    from fedmomentum.analogies.drawing import BLUE, GREEN, GREY, INK, RED, sheet

    with sheet(folder, "games", 3, width=11.0, height=3.7, width_ratios=[1, 1.1, 1]) as (page, (left, middle, right)):
        for b, c, colour in ((0.15, 0.0, RED), (0.0, 0.0, BLUE), (momentum_x, momentum_y, GREEN)):
            path = play(lr=lr, momentum_x=b, momentum_y=c, turns=turns, steps=90, start=(1.0, 0.0))
            left.plot(path[:, 0], path[:, 1], "-o", color=colour, lw=0.8, ms=2, label=f"β = {b:g}, {c:g}")
        left.plot(0, 0, "+", color=INK, ms=9)
        left.set(
            title="min max xy, in turns" if turns else "min max xy, at once",
            xlabel="x",
            ylabel="y",
            aspect="equal",
            xlim=(-3.2, 3.2),
            ylim=(-3, 3.9),
        )
        left.legend(loc="upper left", ncols=3, columnspacing=0.9, handlelength=1.2)
        grid = np.linspace(-0.9, 0.6, 61)
        radius = np.array(
            [
                [predict(lr=lr, momentum_x=float(b1), momentum_y=float(b2), turns=turns).radius for b1 in grid]
                for b2 in grid
            ]
        )
        image = middle.pcolormesh(
            grid, grid, np.log(radius), cmap="RdBu_r", vmin=-0.03, vmax=0.03, shading="nearest", rasterized=True
        )
        middle.contour(grid, grid, radius, levels=[1.0], colors=INK, linewidths=1.2)
        middle.plot(momentum_x, momentum_y, "o", color=GREEN, ms=6)
        middle.set(title=f"log radius, lr = {lr:g}", xlabel="momentum of x", ylabel="momentum of y")
        middle.grid(False)
        page.colorbar(image, ax=middle, shrink=0.9, ticks=[-0.03, 0, 0.03])
        game = ring_gan(momenta=(-0.5, 0.0, 0.9))
        for k, (beta, colour) in enumerate(zip(game.momenta, (GREEN, BLUE, RED), strict=True)):
            points = game.samples[k][:250]
            covered = game.modes_covered[k]
            right.plot(
                points[:, 0],
                points[:, 1],
                ".",
                color=colour,
                ms=2.5,
                alpha=0.6,
                rasterized=True,
                label=f"β = {beta:g}: {covered} of 8",
            )
        right.plot(game.centres[:, 0], game.centres[:, 1], "o", mfc="none", color=GREY, ms=13)
        right.set(title="A small GAN on a ring", aspect="equal", xlim=(-3.1, 3.1), ylim=(-3, 3.9))
        right.legend(loc="upper left", markerscale=3, ncols=3, columnspacing=0.6, handletextpad=0.1)


def _growth(path: Array) -> float:
    """Give the factor per step of an orbit's size, by a line through its logarithm over the later half."""
    size = np.hypot(path[:, 0], path[:, 1])
    later = np.arange(len(size) // 2, len(size))
    return math.exp(float(np.polyfit(later, np.log(size[later]), 1)[0]))
