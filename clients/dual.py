"""A fast path of stacked training: the first dense layer in dual form, so that no client ever has weights of its own.

A gradient by the weight of the first layer is ``D^T X``: what comes back through the network times the inputs. Along a
client's steps the weight is therefore ``W_t = W_0 + A_t^T X`` with one row of coefficients ``A_t`` an example, and the
layer's outputs are ``X W_0^T + (X X^T) A_t``. A heavy ball has gone ``-lr (1 + beta + ... + beta^i)`` times a gradient
``i`` steps after it came, so with the ``D_s`` of the steps before

    z_t = X_t W_0^T - lr sum_{s < t} (1 + beta + ... + beta^(t - 1 - s)) (X_t X_s^T) D_s

and neither coefficients nor their velocity move from step to step. A bias is the weight of one more input that is 1.
What is left is one large product before the steps, one after them for the mean of the clients' weights, and the inner
products of each client's examples (:mod:`fedmomentum.clients.gram`). Exact: equal to the plain loop to float tolerance
(tests/clients/test_dual.py).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat

import torch
from torch import Tensor, nn

from fedmomentum.clients.batches import StackedPlan
from fedmomentum.clients.dense import NARROW, Goal, Layer, momentum_step
from fedmomentum.clients.gram import Inner
from fedmomentum.clients.linear import linear
from fedmomentum.trees import Tree, expand

EXAMPLES_PER_UNIT, MOST_PASSES = 1, 2
"""Examples of a client, for each output of the layer and each pass over them, up to which the dual form pays where
their inner products are not kept: beyond, these cost more than the weights that they save. They are taken once, so a
client that goes over its examples twice or more may have twice as many (benchmarks/vectorize.py)."""
LEAST_UNITS = 32
"""Outputs of the first layer from which it then is the part of the work that matters."""
STACK_NUMBERS = 8 << 20
"""Examples and coefficients that are stacked at a time, in numbers: what a core's share of the cache holds."""


@dataclass(frozen=True)
class DualEnd:
    """Where K clients have ended."""

    params_K: Tree
    """All parameters but those of the first layer, stacked."""
    mean: Tree
    """The first layer: the weighted mean over the clients, the only form in which it exists."""
    loss_K: Tensor
    """Sum of the losses of all examples seen."""


class Dual:
    """Trains stacked clients of a dense network by a heavy ball with its first layer in dual form."""

    def __init__(self, layers: Sequence[Layer], units: int, features: int) -> None:
        """Take the layers of a network, the first of which has so many outputs and inputs."""
        self.first, self.above, self.units, self.features = layers[0], layers[1:], units, features

    def pays(self, examples: int, passes: float) -> bool:
        """Say whether it is the faster form for a client, not kept, that goes over its examples so many times."""
        if not self.above or self.units < LEAST_UNITS:
            return False
        return examples <= EXAMPLES_PER_UNIT * self.units * max(1.0, min(passes, MOST_PASSES))

    def width(self, examples: int) -> int:
        """Give how many clients of so many examples are stacked at a time."""
        return max(1, STACK_NUMBERS // (examples * (self.features + 3 * self.units)))

    def train(
        self,
        anchor: Tree,
        inner: Inner,
        plan: StackedPlan,
        goals: Goal,
        share_K: Tensor,
        lr: float,
        beta: float,
        *,
        stretch: int,
    ) -> DualEnd | None:
        """Give where clients end, or None where some number is not finite: with weights of their own they tell whose.

        Args:
            anchor: the model that they start from.
            inner: their examples.
            plan: their batches.
            goals: of every step, ``[S, K, B, ...]``.
            share_K: weight of each client in the mean; they sum to 1.
            lr: step size.
            beta: momentum.
            stretch: steps after which coefficients are summed up by example.
        """
        first, x = self.first, inner.x_RD
        weight, bias = anchor[first.weight], anchor[first.bias] if first.bias else None
        steps, _, batch = plan.rows_SKB.shape
        params_K = expand({n: t for n, t in anchor.items() if n not in (first.weight, first.bias)}, len(plan.steps))
        ball_K = {name: torch.zeros_like(t) for name, t in params_K.items()} if beta else None
        loss_K = torch.zeros(len(plan.steps), dtype=x.dtype, device=x.device)
        size_SK = plan.weights_SKB.sum(2)
        start_RU = linear(x, weight, bias)
        ages, trail = _Ages(lr, beta, min(stretch, steps), x), _Trail(inner, start_RU)
        since = ages.gone_I[1:].flip(0).repeat_interleave(batch)  # how far each example has gone, the last ones last
        target = goals.target.neg() if not self.above else None
        for begin in range(0, steps, stretch):
            end = min(begin + stretch, steps)
            inner.begin(begin, end)
            z_KPU = inner.choose(start_RU if begin == 0 else start_RU + trail.gained_RU)
            pull_KPU = inner.choose(trail.pull_RU) if begin and beta else None
            whole = plan.active(end - 1) == len(loss_K)  # else the last steps leave rows as they are
            back_KPU = torch.empty_like(z_KPU) if whole else torch.zeros_like(z_KPU)
            for step in range(begin, end):
                active, at = plan.active(step), step - begin
                now, seen = slice(at * batch, (at + 1) * batch), slice(0, at * batch)
                z = z_KPU[:active, now]
                if at:
                    gram = inner.products(now, seen, active).mul_(since[-at * batch :])
                    z.add_(_times(gram, back_KPU[:active, seen]))
                    if pull_KPU is not None:
                        z.add_(pull_KPU[:active, now], alpha=ages.glide(at))
                back = back_KPU[:active, now]
                if target is not None:
                    share = goals.share[step, :active]
                    torch.addcmul(target[step, :active], torch.softmax(z.mT, 1), share, out=back.mT)
                    continue
                here = {name: t[:active] for name, t in params_K.items()}
                ball = ball_K and {name: t[:active] for name, t in ball_K.items()}
                h = z.relu_() if first.relu else z
                loss, dz = momentum_step(self.above, here, ball, h, goals.at(step, active), lr, beta, below=first)
                back.copy_(dz)
                loss_K[:active].addcmul_(loss, size_SK[step, :active])
            if target is not None:
                z_SKUB = z_KPU.view(len(loss_K), end - begin, batch, -1).permute(1, 0, 3, 2)
                loss_SK = (torch.log_softmax(z_SKUB, 2) * target[begin:end]).sum((2, 3))
                loss_K.add_((loss_SK * size_SK[begin:end]).sum(0))
            done_K = torch.from_numpy((plan.steps - begin).clip(0, end - begin)).to(x.device)
            back_KSN = back_KPU.view(len(done_K), end - begin, -1)
            trail.add(back_KSN, ages, done_K, first=begin == 0, last=end == steps)
        rows_UR = trail.moved_RU.new_empty(self.units, len(x))
        torch.mul(trail.moved_RU.T, share_K[inner.owner_R], out=rows_UR)
        mean = {first.weight: linear(rows_UR, x.T).add_(weight)}
        if first.bias:
            mean[first.bias] = anchor[first.bias] + rows_UR.sum(1)
        numbers = [*mean.values(), loss_K, *params_K.values()]
        finite = torch.isfinite(torch.stack([t.sum() for t in numbers])).all()
        return DualEnd(params_K, mean, loss_K) if bool(finite) else None


class _Ages:
    """How far a heavy ball goes by a gradient, so many steps after it came."""

    def __init__(self, lr: float, beta: float, steps: int, like: Tensor) -> None:
        """Tabulate ``beta^i`` and ``-lr (1 + beta + ... + beta^(i - 1))`` for ``i`` up to so many steps."""
        power = list(accumulate(repeat(beta, steps), operator.mul, initial=1.0))
        gone = list(accumulate((-lr * p for p in power[:-1]), initial=0.0))
        self.beta, self._gone = beta, gone
        self.power_I, self.gone_I = like.new_tensor(power), like.new_tensor(gone)

    def glide(self, step: int) -> float:
        """Give how far the velocity at step 0 has gone at a step."""
        return self.beta * self._gone[step]


class _Trail:
    """Where clients have come by the end of a stretch, as coefficients of their examples."""

    def __init__(self, inner: Inner, start_RU: Tensor) -> None:
        """Begin at the model of the round."""
        self._inner = inner
        self.moved_RU = self._speed_RU = self.gained_RU = self.pull_RU = start_RU

    def add(self, back_KSN: Tensor, ages: _Ages, done_K: Tensor, *, first: bool, last: bool) -> None:
        """Add the gradients by the outputs in a stretch, of which each client has done so many steps."""
        inner, owner_R = self._inner, self._inner.owner_R
        age_KS = (done_K.unsqueeze(1) - torch.arange(back_KSN.shape[1], device=done_K.device)).clamp(min=0)
        gone_KS1 = ages.gone_I[age_KS].unsqueeze(2)
        moved_RU = inner.collect(back_KSN.mul_(gone_KS1) if last else back_KSN * gone_KS1)
        if not first:
            moved_RU.add_(self.moved_RU)
            if ages.beta:
                moved_RU.addcmul_(self._speed_RU, (ages.beta * ages.gone_I[done_K])[owner_R].unsqueeze(1))
        self.moved_RU = moved_RU
        if last:
            return
        self.gained_RU = inner.spread(moved_RU)
        if ages.beta:
            power_KS = ages.power_I[(age_KS - 1).clamp(min=0)].where(age_KS > 0, 0.0)
            speed_RU = inner.collect(back_KSN * power_KS.unsqueeze(2))
            if not first:
                speed_RU.addcmul_(self._speed_RU, ages.power_I[done_K][owner_R].unsqueeze(1))
            self._speed_RU, self.pull_RU = speed_RU, inner.spread(speed_RU)


def _times(gram_KBS: Tensor, back_KSU: Tensor) -> Tensor:
    """Give their product, in the order that is the faster one."""
    narrow = back_KSU.shape[2] <= NARROW
    return torch.bmm(back_KSU.mT, gram_KBS.mT).mT if narrow else torch.bmm(gram_KBS, back_KSU)


def dual(module: nn.Module, layers: Sequence[Layer] | None) -> Dual | None:
    """Give the dual form for a dense network, or None where there is none."""
    if layers is None:
        return None
    units, features = module.get_parameter(layers[0].weight).shape
    return Dual(layers, units, features)
