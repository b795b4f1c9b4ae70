"""A small GAN on a ring of eight Gaussians: a game with no closed form, to see whether the bilinear one's lesson holds.

Several games with different momenta are played at once, as stacked networks under one rule with a momentum a copy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fedmomentum.analogies.result import Array, as_array
from fedmomentum.optim import Rule, expand_state, make_rule
from fedmomentum.streams import torch_stream
from fedmomentum.trees import State, Tree

MODES, RADIUS, SPREAD, LATENT = 8, 2.0, 0.1, 8


@dataclass(frozen=True)
class RingGame:
    """How the games ended.

    Args:
        momenta: of each game: of both players, or of generator and discriminator.
        samples: ``[K, n, 2]`` of the generators.
        centres: ``[8, 2]`` of the Gaussians.
        modes_covered: Gaussians that each generator reaches with at least a tenth of their fair share of samples.
        quality: part of each generator's samples within three standard deviations (enlarged by a factor 2) of a centre.
    """

    momenta: tuple[float | tuple[float, float], ...]
    samples: Array
    centres: Array
    modes_covered: tuple[int, ...]
    quality: tuple[float, ...]


def ring_gan(
    *,
    momenta: Sequence[float | tuple[float, float]] = (-0.5, 0.0, 0.9),
    lr: float = 0.05,
    steps: int = 2000,
    batch: int = 128,
    hidden: int = 32,
    seed: int = 0,
) -> RingGame:
    """Train one GAN for each momentum, in turns, all from the same start and on the same data.

        discriminator min softplus(-D(x)) + softplus(D(G(z))),   generator min softplus(-D(G(z)))

    A player's rate is ``lr (1 - beta)``, so that all move equally fast and differ in momentum alone.

    Args:
        momenta: of each game the beta of both players, or of generator and discriminator, in (-1, 1).
        lr: effective learning rate.
        steps: rounds; each player moves once.
        batch: examples of each player.
        hidden: units of the two hidden layers of each network.
        seed: of the streams "ring gan start" and "ring gan data".

    Source: the ring is from Metz et al. 2017, arXiv:1611.02163; negative momentum from arXiv:1807.04740.
    """
    count = len(momenta)
    start, draw = torch_stream(seed, "ring gan start"), torch_stream(seed, "ring gan data")
    players: list[Tree] = [
        _network(start, count, sizes) for sizes in ((LATENT, hidden, hidden, 2), (2, hidden, hidden, 1))
    ]
    each = [pair if isinstance(pair, tuple) else (pair, pair) for pair in momenta]
    betas_PK = torch.tensor(each, dtype=torch.float64).T.contiguous()  # P players, K games
    rules: list[Rule] = [make_rule("heavy_ball", lr=lr * (1 - betas), momentum=betas) for betas in betas_PK]
    states: list[State] = [
        expand_state(rule.init({n: p[0] for n, p in tree.items()}), count)
        for rule, tree in zip(rules, players, strict=True)
    ]
    angles = torch.arange(MODES) * (2 * math.pi / MODES)
    centres = RADIUS * torch.stack([angles.cos(), angles.sin()], dim=1)

    def move(player: int, leaves: Tree, loss: Tensor) -> None:
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        updates, states[player] = rules[player].update(grads, states[player], players[player])
        players[player] = {n: p + updates[n] for n, p in players[player].items()}

    for _ in range(steps):
        pick = torch.randint(MODES, (batch,), generator=draw)
        real = (centres[pick] + SPREAD * torch.randn(batch, 2, generator=draw)).expand(count, batch, 2)
        latent = torch.randn(batch, LATENT, generator=draw).expand(count, batch, LATENT)
        with torch.no_grad():
            fake = _apply(players[0], latent)
        leaves = {n: p.detach().requires_grad_(True) for n, p in players[1].items()}
        verdict = softplus(-_apply(leaves, real)).mean((1, 2)) + softplus(_apply(leaves, fake)).mean((1, 2))
        move(1, leaves, verdict.sum())  # a sum over games: each game's gradient is its own
        leaves = {n: p.detach().requires_grad_(True) for n, p in players[0].items()}
        move(0, leaves, softplus(-_apply(players[1], _apply(leaves, latent))).mean((1, 2)).sum())
    with torch.no_grad():
        latent = torch.randn(1024, LATENT, generator=draw).expand(count, 1024, LATENT)
        samples = _apply(players[0], latent)
    covered, quality = zip(*(_judge(points, centres) for points in samples), strict=True)
    return RingGame(
        momenta=tuple(momenta),
        samples=as_array(samples),
        centres=as_array(centres),
        modes_covered=tuple(covered),
        quality=tuple(quality),
    )


def _network(draw: torch.Generator, count: int, sizes: Sequence[int]) -> Tree:
    """Give ``count`` equal copies of a random network."""
    tree: Tree = {}
    for k, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        weight = torch.randn(fan_in, fan_out, generator=draw) * math.sqrt(2 / fan_in)
        tree[f"w{k}"] = weight.expand(count, fan_in, fan_out).clone()
        tree[f"b{k}"] = torch.zeros(count, 1, fan_out)
    return tree


def _apply(tree: Tree, x: Tensor) -> Tensor:
    last = len(tree) // 2 - 1
    for k in range(last + 1):
        x = torch.baddbmm(tree[f"b{k}"], x, tree[f"w{k}"])
        if k < last:
            x = torch.relu(x)
    return x


def _judge(points: Tensor, centres: Tensor) -> tuple[int, float]:
    if not bool(torch.isfinite(points).all()):
        return 0, 0.0
    distance, nearest = torch.cdist(points, centres).min(dim=1)
    good = distance < 6 * SPREAD
    counts = torch.bincount(nearest[good], minlength=MODES)
    return int((counts >= 0.1 * len(points) / MODES).sum()), float(good.double().mean())
