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
        dz.mul_(share.unsqueeze(2))
        grads: Tree = {}
        for depth in range(len(layers) - 1, -1, -1):
            layer, before = layers[depth], hidden[depth]
            grads[layer.weight] = torch.bmm(dz.mT, before)
            if layer.bias:
                grads[layer.bias] = dz.sum(1)
            if depth:
                dz = torch.bmm(dz, params[layer.weight])
                if layers[depth - 1].relu:
                    dz = torch.ops.aten.threshold_backward(dz, before, 0)
        return {name: grads[name] for name in params}, loss

    return gradients


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
