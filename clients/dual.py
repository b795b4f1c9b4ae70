"""A fast path of stacked training: the first dense layer in dual form, so that no client ever has weights of its own.

A gradient by the weight of the first layer is ``D^T X``: what comes back through the network times the inputs. Along a
client's steps the weight is therefore ``W_t = W_0 + A_t^T X`` with one row of coefficients ``A_t`` an example, and a
rule that is linear moves the coefficients as it would move the weight. The layer's outputs are
``X W_0^T + (X X^T) A_t``: one large product for all clients, and the inner products of each client's examples. The mean
of the clients' weights is ``W_0`` plus one large product again. Exact: equal to the plain loop to float tolerance
(tests/clients/test_dual.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedmomentum.clients.batches import StackedPlan, pad
from fedmomentum.clients.dense import Goal, Layer, descend, momentum_step
from fedmomentum.trees import Tree, expand

EXAMPLES_PER_UNIT, MOST_PASSES = 1, 2
"""Examples of a client, for each output of the layer and each pass over them, up to which the dual form pays: beyond,
the inner products of the examples cost more than the weights that they save. Those are taken once, so a client that
goes over its examples twice or more may have twice as many (benchmarks/vectorize.py)."""
LEAST_UNITS = 32
"""Outputs of the first layer from which it is the part of the work that matters."""
STACK_NUMBERS = 2 << 20
"""Examples and coefficients that are stacked at a time, in numbers: what a core's share of the cache holds."""


@dataclass(frozen=True)
class DualEnd:
    """Where K clients have ended."""

    params_K: Tree
    """All parameters but the first weight, stacked."""
    mean: Tree
    """The first weight: its weighted mean over the clients, the only form in which it exists."""
    loss_K: Tensor
    """Sum of the losses of all examples seen."""


class Dual:
    """Trains stacked clients of a dense network by a heavy ball with its first layer in dual form."""

    def __init__(self, layers: Sequence[Layer], units: int, features: int) -> None:
        """Take the layers of a network of at least two, the first of which has so many outputs and inputs."""
        self.first, self.above, self.units, self.features = layers[0], layers[1:], units, features

    def pays(self, examples: int, passes: float) -> bool:
        """Say whether it is the faster form for a client that goes over so many examples so many times."""
        return examples <= EXAMPLES_PER_UNIT * self.units * max(1.0, min(passes, MOST_PASSES))

    def width(self, examples: int) -> int:
        """Give how many clients of so many examples are stacked at a time."""
        return max(1, STACK_NUMBERS // (examples * (self.features + 3 * self.units)))

    def train(
        self,
        anchor: Tree,
        x: Tensor,
        plan: StackedPlan,
        slots: Slots,
        goals: Goal,
        share_K: Tensor,
        lr: float,
        beta: float,
    ) -> DualEnd | None:
        """Give where clients end, or None where some number is not finite: with weights of their own they tell whose.

        Args:
            anchor: the model that they start from.
            x: source of examples.
            plan: their batches.
            slots: their examples.
            goals: of every step, ``[S, K, B, ...]``.
            share_K: weight of each client in the mean; they sum to 1.
            lr: step size.
            beta: momentum.
        """
        first, clients = self.first, len(plan.steps)
        weight = anchor[first.weight]
        units, batch = weight.shape[0], plan.rows_SKB.shape[2]
        x_KND = x.index_select(0, slots.rows_KN.reshape(-1)).view(*slots.rows_KN.shape, -1)
        base_KNH = F.linear(x_KND, weight)
        params_K = expand({name: t for name, t in anchor.items() if name != first.weight}, clients)
        ball_K = {name: torch.zeros_like(t) for name, t in params_K.items()} if beta else None
        move_KNH = torch.zeros_like(base_KNH)  # the coefficients A
        pull_KNH = torch.zeros_like(base_KNH) if beta else move_KNH  # and their velocity
        loss_K = torch.zeros(clients, device=x.device)
        size_SK = plan.weights_SKB.sum(2)
        inner_KNN = torch.bmm(x_KND, x_KND.mT) if slots.flat_SKB is not None else None
        for step in range(int(plan.steps[0])):
            active = plan.active(step)
            seen = slice(0, step * batch) if inner_KNN is None else slice(0, x_KND.shape[1])
            now = slice(step * batch, (step + 1) * batch)
            if inner_KNN is None:  # one epoch: examples lie in the order in which they are seen
                z = base_KNH[:active, now]
                gram = torch.bmm(x_KND[:active, now], x_KND[:active, seen].mT) if step else None
            else:
                flat = slots.flat(step, active)
                z = base_KNH.view(-1, units).index_select(0, flat).view(active, batch, units)
                gram = inner_KNN.view(-1, inner_KNN.shape[2]).index_select(0, flat).view(active, batch, -1)
            if gram is not None:
                z = torch.baddbmm(z, gram, move_KNH[:active, seen])
            here = {name: t[:active] for name, t in params_K.items()}
            ball = ball_K and {name: t[:active] for name, t in ball_K.items()}
            if first.bias:
                z = z.add_(here[first.bias].unsqueeze(1)) if gram is not None else z + here[first.bias].unsqueeze(1)
            h = z.relu_() if first.relu else z
            loss, dz = momentum_step(self.above, here, ball, h, goals.at(step, active), lr, beta, below=first)
            loss_K[:active].addcmul_(loss, size_SK[step, :active])
            if first.bias:
                descend(here[first.bias], None if ball is None else ball[first.bias], dz.sum(1), lr, beta)
            self._move(move_KNH, pull_KNH, dz, beta, lr, active, seen, now if inner_KNN is None else flat)
        coefficients = move_KNH.mul_(share_K.view(-1, 1, 1)).view(-1, units)
        mean = torch.addmm(weight, coefficients.T, x_KND.view(len(coefficients), -1))
        numbers = [mean, loss_K, *params_K.values()]
        finite = torch.isfinite(torch.stack([t.sum() for t in numbers])).all()
        return DualEnd(params_K, {first.weight: mean}, loss_K) if bool(finite) else None

    @staticmethod
    def _move(
        move_KNH: Tensor,
        pull_KNH: Tensor,
        dz: Tensor,
        beta: float,
        lr: float,
        active: int,
        seen: slice,
        now: slice | Tensor,
    ) -> None:
        """Take the heavy ball's step of the coefficients of the clients at work."""
        if isinstance(now, slice):
            if not beta:
                move_KNH[:active, now] = dz.mul_(-lr)
                return
            pull_KNH[:active, seen].mul_(beta)
            pull_KNH[:active, now] = dz
            every = slice(0, now.stop)
            move_KNH[:active, every].add_(pull_KNH[:active, every], alpha=-lr)
            return
        flat_dz = dz.reshape(-1, dz.shape[2])
        if not beta:
            move_KNH.view(-1, dz.shape[2]).index_add_(0, now, flat_dz, alpha=-lr)
            return
        pull_KNH[:active].mul_(beta)
        pull_KNH.view(-1, dz.shape[2]).index_add_(0, now, flat_dz)
        move_KNH[:active].add_(pull_KNH[:active], alpha=-lr)


@dataclass(frozen=True)
class Slots:
    """The distinct examples of K clients, ``[K, N]``, and which of them a step sees."""

    rows_KN: Tensor
    """Rows of the source of examples."""
    flat_SKB: Tensor | None
    """Slot of each example of a step, counted over all clients; None where step ``t`` sees the t-th ``batch`` slots."""

    @classmethod
    def of(
        cls, plan: StackedPlan, plans: Sequence[NDArray[np.int64]], own: Sequence[NDArray[np.int64]], *, once: bool
    ) -> Slots:
        """Give the slots of stacked clients.

        Args:
            plan: their batches.
            plans: the same as positions in each one's own data.
            own: the row of every example of each, ``[1, n]``.
            once: whether nobody sees an example twice.
        """
        device = plan.rows_SKB.device
        if once:
            return cls(plan.rows_SKB.transpose(0, 1).flatten(1), None)
        rows_KN = pad(own)[0]
        rows_KN = np.where(rows_KN >= 0, rows_KN, rows_KN[:, :1])
        slot_SKB = np.maximum(pad(plans), 0) + np.arange(len(rows_KN))[None, :, None] * rows_KN.shape[1]
        return cls(torch.from_numpy(rows_KN).to(device), torch.from_numpy(slot_SKB).to(device))

    def flat(self, step: int, active: int) -> Tensor:
        """Give the slots of a step of the first ``active`` clients, one after another."""
        assert self.flat_SKB is not None
        return self.flat_SKB[step, :active].reshape(-1)


def dual(module: nn.Module, layers: Sequence[Layer] | None) -> Dual | None:
    """Give the dual form for a dense network whose first layer is wide enough, or None."""
    if layers is None or len(layers) < 2:
        return None
    units, features = module.get_parameter(layers[0].weight).shape
    return Dual(layers, units, features) if units >= LEAST_UNITS else None
