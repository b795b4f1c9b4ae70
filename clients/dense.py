"""A fast path of stacked training: the gradients of dense networks written out by hand as batched matrix products.

Exact (equal to ``vmap(grad)`` to float tolerance, tests/clients/test_dense.py) and free of its tracing and of the
tensors that autograd would keep. Serves any ``nn.Sequential`` of ``Flatten``, ``Linear`` and ``ReLU`` that ends in a
``Linear``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedmomentum.clients.batches import mean_shares
from fedmomentum.trees import Tree

Gradients = Callable[[Tree, Tensor, Tensor, Tensor], tuple[Tree, Tensor]]
"""Stacked parameters, examples ``[K, B, ...]``, labels ``[K, B]``, weights ``[K, B]`` -> gradients, losses ``[K]``."""

NARROW = 12
"""Outputs up to which ``W h^T`` is the faster of the two orders of a small product (benchmarks/vectorize.py)."""


@dataclass(frozen=True)
class Layer:
    """One dense layer: the names of its tensors, and whether a ReLU follows."""

    weight: str
    bias: str | None
    relu: bool


class Goal(NamedTuple):
    """What the outputs of a minibatch should be, ready for the gradient of the weighted mean cross entropy.

    Classes come before examples: torch's softmax is several times faster over an axis that is not the last.
    """

    share: Tensor
    """``w_i / sum_j w_j`` of each example, ``[..., K, 1, B]``."""
    target: Tensor
    """The share at each example's label and 0 elsewhere, or the numbers to meet, ``[..., K, classes, B]``."""
    squares: bool = False
    """Whether targets are numbers, and the loss is half the squared error."""

    def at(self, step: int, active: int) -> Goal:
        """Give the goal of one step of the first ``active`` clients, where the leading axis counts steps."""
        return Goal(self.share[step, :active], self.target[step, :active], self.squares)


class Below(NamedTuple):
    """The layer under those that take a step, and where the gradient by its outputs is to be written."""

    layer: Layer
    dz: Tensor


def goal(labels: Tensor, weights: Tensor, classes: int) -> Goal:
    """Give the goal of labels ``[..., K, B]`` with weights of that shape; a batch without weight has none.

    Labels that are numbers are ``[..., K, B, classes]``.
    """
    share = mean_shares(weights).unsqueeze(-2)
    if labels.is_floating_point():
        return Goal(share, labels.mT, squares=True)
    zeros = share.new_zeros(*labels.shape[:-1], classes, labels.shape[-1])
    target = zeros.scatter_(-2, labels.unsqueeze(-2), share)
    return Goal(share, target)


def dense_gradients(module: nn.Module) -> Gradients | None:
    """Give the gradient of the weighted mean loss of a dense network, or None for any other network.

    With ``h_0 = x`` and ``h_l = relu(W_l h_{l-1} + b_l)``: ``dz_L = w (softmax(z_L) - onehot(y)) / sum w`` for classes
    and ``w (z_L - y) / sum w`` for numbers,
    ``dW_l = dz_l^T h_{l-1}``, ``db_l = sum_B dz_l``, ``dz_{l-1} = (dz_l W_l) * [h_{l-1} > 0]``.
    """
    layers = read_layers(module)
    if layers is None:
        return None

    def gradients(params: Tree, x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tree, Tensor]:
        hidden = forward(layers, params, x.flatten(2))
        dz, loss = outputs(hidden[-1], goal(y, weight, hidden[-1].shape[-1]))
        grads: Tree = {}
        for depth in range(len(layers) - 1, -1, -1):
            layer, before = layers[depth], hidden[depth]
            grads[layer.weight] = torch.bmm(dz.mT, before)
            if layer.bias:
                grads[layer.bias] = dz.sum(1)
            if depth:
                dz = back(layers[depth - 1], params[layer.weight], before, dz)
        return {name: grads[name] for name in params}, loss

    return gradients


def momentum_step(
    layers: Sequence[Layer],
    params: Tree,
    velocity: Tree | None,
    x: Tensor,
    goal: Goal,
    lr: float,
    beta: float,
    *,
    below: Below | None = None,
) -> Tensor:
    """Take one heavy-ball step in place; give the losses ``[K]``.

    ``v <- beta v + dz^T h`` is one product that adds into the velocity, so a gradient is never written down: for wide
    layers, whose cost is memory traffic, that is half the time. Without a velocity: ``W <- W - lr dz^T h``.

    Args:
        layers: of the network, or those above some depth.
        params: stacked parameters; changed.
        velocity: stacked; changed. None without momentum.
        x: what the first of the layers is given, ``[K, B, features]``.
        goal: of this step.
        lr: step size.
        beta: momentum.
        below: the layer under them, where ``x`` is what it gave; the gradient by its outputs is written there.
    """
    hidden = forward(layers, params, x)
    dz, loss = outputs(hidden[-1], goal)
    for depth in range(len(layers) - 1, -1, -1):
        layer, before = layers[depth], hidden[depth]
        here, w = dz, params[layer.weight]
        if depth:  # before the weights move
            dz = back(layers[depth - 1], w, before, dz)
        elif below is not None:
            back(below.layer, w, before, dz, into=below.dz)
        if velocity is None:
            w.baddbmm_(here.mT, before, alpha=-lr)
        else:
            w.add_(velocity[layer.weight].baddbmm_(here.mT, before, beta=beta), alpha=-lr)
        if layer.bias:
            descend(params[layer.bias], None if velocity is None else velocity[layer.bias], here.sum(1), lr, beta)
    return loss


def descend(param: Tensor, velocity: Tensor | None, grad: Tensor, lr: float, beta: float) -> None:
    """Take one heavy-ball step of one tensor in place."""
    param.add_(grad if velocity is None else velocity.mul_(beta).add_(grad), alpha=-lr)


def forward(layers: Sequence[Layer], params: Tree, x: Tensor) -> list[Tensor]:
    """Give what every layer is given, and the outputs."""
    hidden = [x]
    for layer in layers:
        w = params[layer.weight]
        z = torch.bmm(w, hidden[-1].mT).mT if w.shape[1] <= NARROW else torch.bmm(hidden[-1], w.mT)
        if layer.bias:
            z.add_(params[layer.bias].unsqueeze(1))
        hidden.append(z.relu_() if layer.relu else z)
    return hidden


def outputs(z: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
    """Give the gradient of the loss by the outputs ``z`` ``[K, B, classes]``, and the losses ``[K]``."""
    z = z.mT
    if goal.squares:
        off = z - goal.target
        weighed = off * goal.share
        return weighed.mT, 0.5 * (off * weighed).sum((1, 2))
    log = torch.log_softmax(z, 1)
    loss = (log * goal.target).sum((1, 2)).neg_()
    return log.exp_().mul_(goal.share).sub_(goal.target).mT, loss


def back(below: Layer, weight: Tensor, before: Tensor, dz: Tensor, into: Tensor | None = None) -> Tensor:
    """Give the gradient by the outputs of the layer below, in memory of its own or that is given."""
    dz = torch.bmm(dz, weight)
    if below.relu:
        torch.ops.aten.threshold_backward.grad_input(dz, before, 0, grad_input=dz if into is None else into)
    elif into is not None:
        into.copy_(dz)
    return dz if into is None else into


def read_layers(module: nn.Module) -> list[Layer] | None:
    """Read a module as dense layers; None where it holds anything else (hooks, subclasses, shared tensors included)."""
    if type(module) is not nn.Sequential or module._forward_hooks or module._forward_pre_hooks:
        return None
    layers: list[Layer] = []
    every = [p for child in module for p in child._parameters.values() if p is not None]
    if len(set(map(id, every))) < len(every):
        return None  # a tensor of two layers has the sum of their gradients
    for position, (name, child) in enumerate(module._modules.items()):  # named_children() leaves repeated ones out
        if (
            child is None
            or child._forward_hooks
            or child._forward_pre_hooks
            or any(not p.requires_grad for p in child.parameters())
        ):
            return None
        if type(child) is nn.Flatten and position == 0 and (child.start_dim, child.end_dim) == (1, -1):
            continue
        if type(child) is nn.Linear:
            layers.append(Layer(f"{name}.weight", f"{name}.bias" if child.bias is not None else None, relu=False))
        elif type(child) is nn.ReLU and layers and not layers[-1].relu:
            layers[-1] = Layer(layers[-1].weight, layers[-1].bias, relu=True)
        else:
            return None
    flattens = any(type(child) is nn.Flatten for child in module.children())
    return layers if layers and not layers[-1].relu and flattens else None
