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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmomentum.clients.batches import StackedPlan
from fedmomentum.clients.dense import NARROW, Below, Layer, goal, momentum_step
from fedmomentum.clients.gram import Inner
from fedmomentum.clients.outputs import Steps, gone
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

    @torch.inference_mode()
    def train(
        self,
        anchor: Tree,
        inner: Inner,
        plan: StackedPlan,
        labels_SKB: Tensor,
        share_K: Tensor,
        lr: float,
        beta: float,
        *,
        stretch: int,
        steps: Steps | None,
    ) -> DualEnd | None:
        """Give where clients end, or None where some number is not finite: with weights of their own they tell whose.

        Args:
            anchor: the model that they start from.
            inner: their examples.
            plan: their batches.
            labels_SKB: of the examples of every step.
            share_K: weight of each client in the mean; they sum to 1.
            lr: step size.
            beta: momentum.
            stretch: steps after which coefficients are summed up by example.
            steps: those of a network of one layer.
        """
        first = self.first
        weight, bias = anchor[first.weight], anchor[first.bias] if first.bias else None
        start_UR = inner.x.outputs(weight, bias)
        params_K: Tree = {}
        if steps is not None:
            rows_UR, loss_K = steps.take(start_UR, lr, beta)
        else:
            hidden = _Hidden(self, anchor, inner, plan, labels_SKB, lr, beta)
            rows_UR = hidden.train(start_UR.T, share_K, stretch)
            params_K, loss_K = hidden.params_K, hidden.loss_K
        mean = {first.weight: inner.x.total(rows_UR).add_(weight)}
        if first.bias:
            mean[first.bias] = anchor[first.bias] + rows_UR.sum(1)
        total = sum((t.sum() for t in (*mean.values(), *params_K.values())), loss_K.sum())
        return DualEnd(params_K, mean, loss_K) if bool(torch.isfinite(total)) else None


class _Ages:
    """How far a heavy ball goes by a gradient, so many steps after it came."""

    def __init__(self, lr: float, beta: float, steps: int, batch: int, like: Tensor) -> None:
        """Tabulate ``beta^i`` and ``-lr (1 + beta + ... + beta^(i - 1))`` for ``i`` up to so many steps."""
        self.beta, self.power_I, self.gone_I = beta, beta ** np.arange(steps + 1.0), gone(lr, beta, steps)
        self._batch, self._behind_P = batch, torch.from_numpy(self.gone_I[:0:-1].repeat(batch)).to(like)

    def glide(self, step: int) -> float:
        """Give how far the velocity at step 0 has gone at a step."""
        return self.beta * float(self.gone_I[step])

    def since(self, step: int) -> Tensor:
        """Give how far each example of the steps before this one has gone, the last one last."""
        return self._behind_P[len(self._behind_P) - step * self._batch :]


class _Hidden:
    """The steps of a network with layers above the first one, which have weights of their own."""

    def __init__(
        self, dual: Dual, anchor: Tree, inner: Inner, plan: StackedPlan, labels_SKB: Tensor, lr: float, beta: float
    ) -> None:
        """Stack the parameters of the layers above."""
        self._inner, self._plan, self._lr, self._beta = inner, plan, lr, beta
        self._first, self._above = dual.first, dual.above
        own = (dual.first.weight, dual.first.bias)
        self.params_K = expand({n: t for n, t in anchor.items() if n not in own}, len(plan.steps))
        self._ball_K = {name: torch.zeros_like(t) for name, t in self.params_K.items()} if beta else None
        self._goals = goal(labels_SKB, plan.weights_SKB, anchor[dual.above[-1].weight].shape[0])
        self._size_SK = plan.weights_SKB.sum(2)
        self.loss_K = self._size_SK.new_zeros(len(plan.steps))

    def train(self, start_RU: Tensor, share_K: Tensor, stretch: int) -> Tensor:
        """Take all steps, a stretch at a time; give how far each example has gone, weighed by shares, ``[U, R]``."""
        steps = len(self._plan.rows_SKB)
        ages = _Ages(self._lr, self._beta, min(stretch, steps), self._plan.rows_SKB.shape[2], start_RU)
        trail = _Trail(self._inner, start_RU, share_K)
        for begin in range(0, steps, stretch):
            end = min(begin + stretch, steps)
            self._inner.begin(begin, end)
            at_RU = start_RU if begin == 0 else start_RU + trail.gained_RU
            back_KPU = self._stretch(begin, end, at_RU, trail.pull_RU if begin and self._beta else None, ages)
            done_K = (self._plan.steps - begin).clip(0, end - begin)
            trail.add(back_KPU, ages, done_K, end - begin, first=begin == 0, last=end == steps)
        return trail.moved_RU.T.contiguous()

    def _stretch(self, begin: int, end: int, at_RU: Tensor, pull_RU: Tensor | None, ages: _Ages) -> Tensor:
        """Take the steps of a stretch; give the gradients by the outputs of the first layer, ``[K, P, U]``."""
        inner, (_, clients, batch) = self._inner, self._plan.rows_SKB.shape
        back_KPU = at_RU.new_empty(clients, (end - begin) * batch, at_RU.shape[1])
        for at, active in enumerate(self._plan.active[begin:end]):
            z, before = inner.choose(at_RU, at, active), at * batch
            if at:
                gram = inner.products(at, active).mul_(ages.since(at))
                _add_product(z, gram, back_KPU[:active, :before])
                if pull_RU is not None:
                    z.add_(inner.choose(pull_RU, at, active), alpha=ages.glide(at))
            here, ball = self.params_K, self._ball_K
            if active < clients:
                here = {name: t[:active] for name, t in here.items()}
                ball = ball and {name: t[:active] for name, t in ball.items()}
            h, goals = z.relu_() if self._first.relu else z, self._goals.at(begin + at, active)
            below = Below(self._first, back_KPU[:active, before : before + batch])
            loss = momentum_step(self._above, here, ball, h, goals, self._lr, self._beta, below=below)
            self.loss_K[:active].addcmul_(loss, self._size_SK[begin + at, :active])
        return back_KPU


class _Trail:
    """Where clients have come by the end of a stretch, as coefficients of their examples."""

    def __init__(self, inner: Inner, start_RU: Tensor, share_K: Tensor) -> None:
        """Begin at the model of the round."""
        self._inner, self._share_K = inner, share_K
        self.moved_RU = self._speed_RU = self.gained_RU = self.pull_RU = start_RU

    def add(
        self, back_KPU: Tensor, ages: _Ages, done_K: NDArray[np.int64], steps: int, *, first: bool, last: bool
    ) -> None:
        """Add the gradients by the outputs in a stretch of so many steps, of which each client has done some.

        In the end each client's coefficients are weighed by its share in the mean.
        """
        age_KS = (done_K[:, None] - np.arange(steps)).clip(0)
        gone_KS = torch.from_numpy(ages.gone_I[age_KS]).to(self._share_K)
        if last:
            gone_KS.mul_(self._share_K.unsqueeze(1))
        moved_RU = self._collect(back_KPU, gone_KS, last=last)
        if not first:
            before_RU = self.moved_RU
            if ages.beta:
                before_RU.addcmul_(self._speed_RU, self._rows(ages.beta * ages.gone_I[done_K]))
            if last:
                before_RU.mul_(self._inner.of_clients(self._share_K).unsqueeze(1))
            moved_RU.add_(before_RU)
        self.moved_RU = moved_RU
        if last:
            return
        self.gained_RU = self._inner.spread(moved_RU)
        if ages.beta:
            power_KS = np.where(age_KS > 0, ages.power_I[(age_KS - 1).clip(0)], 0.0)
            speed_RU = self._collect(back_KPU, torch.from_numpy(power_KS).to(self._share_K), last=False)
            if not first:
                speed_RU.addcmul_(self._speed_RU, self._rows(ages.power_I[done_K]))
            self._speed_RU, self.pull_RU = speed_RU, self._inner.spread(speed_RU)

    def _collect(self, back_KPU: Tensor, factor_KS: Tensor, *, last: bool) -> Tensor:
        """Sum up what comes back by examples, each step with a factor."""
        back_KSN, factor_KS1 = back_KPU.view(*factor_KS.shape, -1), factor_KS.unsqueeze(2)
        weighed_KSN = back_KSN.mul_(factor_KS1) if last else back_KSN * factor_KS1
        return self._inner.collect(weighed_KSN.view(back_KPU.shape))

    def _rows(self, factor_K: NDArray[np.float64]) -> Tensor:
        return self._inner.of_clients(torch.from_numpy(factor_K).to(self._share_K)).unsqueeze(1)


def _add_product(z_KBU: Tensor, gram_KBP: Tensor, back_KPU: Tensor) -> None:
    """Add their product, in the order that is the faster one."""
    if back_KPU.shape[2] <= NARROW:
        z_KBU.add_(torch.bmm(back_KPU.mT, gram_KBP.mT).mT)
    else:
        z_KBU.baddbmm_(gram_KBP, back_KPU)


def dual(module: nn.Module, layers: Sequence[Layer] | None) -> Dual | None:
    """Give the dual form for a dense network, or None where there is none."""
    if layers is None:
        return None
    units, features = module.get_parameter(layers[0].weight).shape
    return Dual(layers, units, features)
