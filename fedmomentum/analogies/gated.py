"""The learning rates at which a GRU can be trained: predicted from its curvature alone, measured by dividing a range.

    largest safe lr = limit(beta)/h,   heavy ball 2(1 + beta)/h,   h the sharpness of the loss

A GRU learns what another one with the same shape says, and starts close to it: there the loss is a quadratic whose
sharpness Lanczos finds, and whether training diverges is decided by that number, the learning rate and the momentum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmomentum.analogies.curvature import Ritz, sharpness
from fedmomentum.analogies.descent import follow
from fedmomentum.analogies.linear import Form
from fedmomentum.optim import make_rule
from fedmomentum.streams import torch_stream

NEAR = 1e-6
"""How far from the teacher's weights training starts."""


@dataclass(frozen=True)
class Teacher:
    """A GRU whose last states another one is to learn from its inputs.

    Args:
        weights: recurrent ones ``[3 n, n]`` in torch's order: reset, update, candidate.
        inputs: what the inputs add to the gates, ``[T, B, 3 n]``: T steps in time, B examples.
    """

    weights: Tensor
    inputs: Tensor

    def last(self, weights: Tensor) -> Tensor:
        """Run a GRU with these weights ``[..., 3 n, n]``; give its last states ``[..., B, n]``."""
        n = weights.shape[-1]
        hidden = torch.zeros(*weights.shape[:-2], self.inputs.shape[1], n, dtype=weights.dtype)
        for x in self.inputs:
            from_state = hidden @ weights.transpose(-1, -2)
            gates = torch.sigmoid(x[:, : 2 * n] + from_state[..., : 2 * n])
            reset, keep = gates[..., :n], gates[..., n:]
            candidate = torch.tanh(x[:, 2 * n :] + reset * from_state[..., 2 * n :])
            hidden = keep * hidden + (1 - keep) * candidate
        return hidden

    def loss(self, weights: Tensor) -> Tensor:
        """Give the squared error ``[...]``, halved and averaged over the examples, of weights ``[..., 3 n, n]``."""
        error = self.last(weights) - self.last(self.weights)
        return error.square().sum((-1, -2)) / (2 * self.inputs.shape[1])

    def gradient(self, weights: Tensor) -> Tensor:
        """Give the gradient of the loss, through time; leading axes are copies."""
        leaf = weights.detach().requires_grad_(True)
        with torch.enable_grad():
            return torch.autograd.grad(self.loss(leaf).sum(), leaf)[0]

    def curvature(self) -> Ritz:
        """Give the ends of the Hessian's spectrum at the teacher's weights."""
        return sharpness(lambda params: self.loss(params["w"]), {"w": self.weights}, steps=30)


def teacher(units: int, *, length: int = 10, examples: int = 8, gain: float = 1.5, seed: int = 0) -> Teacher:
    """Draw a GRU and its inputs.

    Args:
        units: n.
        length: T.
        examples: B.
        gain: its weights have variance gain^2/n.
        seed: of the stream "gated".
    """
    if units < 1 or length < 1 or examples < 1:
        raise ValueError(f"a GRU needs units, length and examples, not {units}, {length} and {examples}")
    noise = torch_stream(seed, "gated")
    weights = torch.randn(3 * units, units, generator=noise, dtype=torch.float64) * gain / math.sqrt(units)
    inputs = torch.randn(length, examples, 3 * units, generator=noise, dtype=torch.float64)
    return Teacher(weights, inputs)


def largest_stable(
    gru: Teacher,
    ritz: Ritz,
    momenta: Sequence[float],
    *,
    form: Form = "heavy_ball",
    stages: int = 2,
    parts: int = 32,
    steps: int = 120,
) -> list[float]:
    """Find the largest learning rate that does not diverge, for each momentum, by dividing a range.

    The range is 0.3/h to 20,000/h whatever the momentum: the search knows nothing of the edge that is predicted.
    All rates of all momenta train at once, as copies of the GRU. A copy diverges if in its last twenty steps it was
    further from the teacher than where it started, which is a step along the sharpest direction.

    Args:
        gru: the teacher.
        ritz: of its curvature.
        momenta: beta, several.
        form: of the momentum.
        stages: of division; each divides the ratio of the range's ends into ``parts``.
        parts: rates tried at once for a momentum.
        steps: of training.

    Returns:
        A rate for each momentum; an end of the range, if it does not hold the edge.
    """
    ranges = [(0.3 / ritz.largest, 2e4 / ritz.largest)] * len(momenta)
    start = gru.weights + NEAR * ritz.top.view_as(gru.weights)
    for _ in range(stages):
        rates = torch.stack([_between(low, high, parts) for low, high in ranges])
        betas = torch.tensor(momenta, dtype=torch.float64).repeat_interleave(parts)
        rule = make_rule(form, lr=rates.flatten(), momentum=betas)
        copies = start.expand(len(betas), *start.shape).clone()
        path = follow(rule, gru.gradient, copies, steps, copies=len(betas))[-20:]
        away = (path - gru.weights).flatten(2).norm(dim=-1).amax(0).view(rates.shape)
        for k, stays in enumerate((away < NEAR).tolist()):  # what is not a number has not stayed
            first = stays.index(False) if False in stays else parts
            ranges[k] = (float(rates[k, max(0, first - 1)]), float(rates[k, min(first, parts - 1)]))
    return [math.sqrt(low * high) for low, high in ranges]


def _between(low: float, high: float, parts: int) -> Tensor:
    return torch.logspace(math.log10(low), math.log10(high), parts, dtype=torch.float64)
