"""A fast path of stacked training: the gradients of dense networks written out by hand as batched matrix products.

Exact (equal to ``vmap(grad)`` to float tolerance, tests/clients/test_dense.py) and free of its tracing and of the
tensors that autograd would keep. Serves any ``nn.Sequential`` of ``Flatten``, ``Linear`` and ``ReLU`` that ends in a
``Linear``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedmomentum.trees import Tree

Gradients = Callable[[Tree, Tensor, Tensor, Tensor], tuple[Tree, Tensor]]
"""Stacked parameters, examples ``[K, B, ...]``, labels ``[K, B]``, weights ``[K, B]`` -> gradients, losses ``[K]``."""

MomentumStep = Callable[[Tree, Tree | None, Tensor, Tensor, Tensor, float, float], Tensor]
"""Stacked parameters, velocity (None without), examples, labels, weights, lr, momentum -> losses ``[K]``; in place."""


@dataclass(frozen=True)
class _Layer:
    weight: str
    bias: str | None
    relu: bool


def dense_gradients(module: nn.Module) -> Gradients | None:
    """Give the gradient of the weighted mean cross entropy of a dense network, or None for any other network.

    With ``h_0 = x`` and ``h_l = relu(W_l h_{l-1} + b_l)``: ``dz_L = w (softmax(z_L) - onehot(y)) / sum w``,
    ``dW_l = dz_l^T h_{l-1}``, ``db_l = sum_B dz_l``, ``dz_{l-1} = (dz_l W_l) * [h_{l-1} > 0]``.
    """
    layers = _layers(module)
    if layers is None:
        return None

    def gradients(params: Tree, x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tree, Tensor]:
        hidden, dz, loss = _forward(layers, params, x, y, weight)
        grads: Tree = {}
        for depth in range(len(layers) - 1, -1, -1):
            layer, before = layers[depth], hidden[depth]
            grads[layer.weight] = torch.bmm(dz.mT, before)
            if layer.bias:
                grads[layer.bias] = dz.sum(1)
            if depth:
                dz = _back(layers[depth - 1], params[layer.weight], before, dz)
        return {name: grads[name] for name in params}, loss

    return gradients


def dense_momentum(module: nn.Module) -> MomentumStep | None:
    """Give one heavy-ball step of a dense network in place, or None for any other network.

    ``v <- beta v + dz^T h`` is one product that adds into the velocity, so a gradient is never written down: for wide
    layers, whose cost is memory traffic, that is half the time. Without a velocity: ``W <- W - lr dz^T h``.
    """
    layers = _layers(module)
    if layers is None:
        return None

    def step(
        params: Tree, velocity: Tree | None, x: Tensor, y: Tensor, weight: Tensor, lr: float, beta: float
    ) -> Tensor:
        hidden, dz, loss = _forward(layers, params, x, y, weight)
        for depth in range(len(layers) - 1, -1, -1):
            layer, before = layers[depth], hidden[depth]
            here, w = dz, params[layer.weight]
            if depth:  # before the weights move
                dz = _back(layers[depth - 1], w, before, dz)
            if velocity is None:
                w.baddbmm_(here.mT, before, alpha=-lr)
            else:
                w.add_(velocity[layer.weight].baddbmm_(here.mT, before, beta=beta), alpha=-lr)
            if layer.bias:
                g = here.sum(1)
                v = g if velocity is None else velocity[layer.bias].mul_(beta).add_(g)
                params[layer.bias].add_(v, alpha=-lr)
        return loss

    return step


def _forward(
    layers: list[_Layer], params: Tree, x: Tensor, y: Tensor, weight: Tensor
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Give the input of every layer and the outputs, the gradient of the loss by the outputs, and the losses."""
    hidden = [x.flatten(2)]
    for layer in layers:
        w, b = params[layer.weight], params[layer.bias] if layer.bias else None
        z = torch.bmm(hidden[-1], w.mT) if b is None else torch.baddbmm(b.unsqueeze(1), hidden[-1], w.mT)
        hidden.append(z.relu_() if layer.relu else z)
    log_p = torch.log_softmax(hidden[-1], 2)
    share = weight / weight.sum(1, keepdim=True)
    target = y.unsqueeze(2)
    loss = -(log_p.gather(2, target).squeeze(2) * share).sum(1)
    dz = log_p.exp_()
    dz.scatter_add_(2, target, torch.full_like(target, -1, dtype=dz.dtype))
    return hidden, dz.mul_(share.unsqueeze(2)), loss


def _back(below: _Layer, weight: Tensor, before: Tensor, dz: Tensor) -> Tensor:
    """Give the gradient by the outputs of the layer below."""
    dz = torch.bmm(dz, weight)
    return torch.ops.aten.threshold_backward(dz, before, 0) if below.relu else dz


def _layers(module: nn.Module) -> list[_Layer] | None:
    """Read a module as dense layers; None where it holds anything else (hooks and subclasses included)."""
    if type(module) is not nn.Sequential or module._forward_hooks or module._forward_pre_hooks:
        return None
    layers: list[_Layer] = []
    for position, (name, child) in enumerate(module.named_children()):
        if child._forward_hooks or child._forward_pre_hooks or any(not p.requires_grad for p in child.parameters()):
            return None
        if type(child) is nn.Flatten and position == 0 and (child.start_dim, child.end_dim) == (1, -1):
            continue
        if type(child) is nn.Linear:
            layers.append(_Layer(f"{name}.weight", f"{name}.bias" if child.bias is not None else None, relu=False))
        elif type(child) is nn.ReLU and layers and not layers[-1].relu:
            layers[-1] = _Layer(layers[-1].weight, layers[-1].bias, relu=True)
        else:
            return None
    flattens = any(type(child) is nn.Flatten for child in module.children())
    return layers if layers and not layers[-1].relu and flattens else None
