"""The curvature of a client's own loss at the global model, by Lanczos on Hessian-vector products."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedmomentum.analogies.curvature import (
    Loss,
    Product,
    Ritz,
    difference_product,
    flatten,
    hessian_product,
    lanczos,
)
from fedmomentum.clients.examples import Examples
from fedmomentum.clients.network import Network
from fedmomentum.clients.norm import batch_norms
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.models.objective import losses
from fedmomentum.streams import stream
from fedmomentum.trees import Tree


@dataclass(frozen=True)
class Bend:
    """How a loss bends at one point, in units of loss per parameter^2.

    Args:
        ritz: what Lanczos found of the spectrum.
        along: g^T H g/|g|^2, the curvature in the direction of the gradient; nan where the gradient is zero.
        slope: |g|, the length of the gradient.
        gradient: g itself.
        cost: gradients of one example's loss that it took; a Hessian-vector product counts as two.
    """

    ritz: Ritz
    along: float
    slope: float
    gradient: Tree
    cost: float


def bend(loss: Loss, params: Mapping[str, Tensor], *, steps: int, seed: int, examples: int, twice: bool = True) -> Bend:
    """Measure the ends of a loss's spectrum and its curvature along the gradient: ``steps + 1`` products, no Hessian.

    Args:
        loss: mean over some examples, of the named parameters.
        params: where to look.
        steps: of Lanczos.
        seed: of its start.
        examples: that the loss is the mean over, for the cost.
        twice: whether the loss can be differentiated twice; if not, products are differences of gradients.

    Raises:
        FloatingPointError: a product is not finite: the model has diverged.
    """
    leaves = {name: x.detach().requires_grad_(True) for name, x in params.items()}
    with torch.enable_grad():
        grads = torch.autograd.grad(loss(leaves), list(leaves.values()), materialize_grads=True)
    gradient = dict(zip(leaves, (g.detach() for g in grads), strict=True))
    g = flatten(gradient)
    product: Product = hessian_product(loss, params) if twice else difference_product(_gradient_of(loss), params)
    ritz = lanczos(product, g.numel(), steps=steps, seed=seed, like=g)
    slope = float(g.double().norm())
    along = float(torch.dot(g.double(), product(g / slope).double()) / slope) if slope > 0 else math.nan
    products = len(ritz.values) + (slope > 0)
    return Bend(ritz, along, slope, gradient, float(examples * (1 + twice + 2 * products)))


def _gradient_of(loss: Loss) -> Any:
    def gradient(params: Tree) -> Tree:
        leaves = {name: x.detach().requires_grad_(True) for name, x in params.items()}
        with torch.enable_grad():
            grads = torch.autograd.grad(loss(leaves), list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, grads, strict=True))

    return gradient


def twice_differentiable(module: nn.Module) -> bool:
    """Tell whether torch can differentiate a model twice: its recurrent layers have no second derivative."""
    return not any(isinstance(layer, nn.RNNBase) for layer in module.modules())


def sample_of(examples: Examples, client: int, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """Give at most so many of a client's training examples, the same ones every time."""
    count = examples.count(client)
    chosen = np.arange(count)
    if count > most:
        chosen = np.sort(stream(seed, "probe examples", client=client).permutation(count)[:most])
    x, y, (rows,) = examples.block([client], [chosen[None].astype(np.int64)])
    index = torch.from_numpy(rows[0]).to(x.device)
    return x.index_select(0, index), y.index_select(0, index)


def client_loss(network: Network, start: Mapping[str, Tensor], x: Tensor, y: Tensor, *, frozen: bool = False) -> Loss:
    """Give the mean loss over examples as a function of the trainable parameters alone.

    Batch norm normalises by the examples, as in training, unless it is ``frozen``; running statistics are not moved,
    and dropout is off, so that the same point always has the same loss.

    Args:
        network: gives the shape of the model; its own tensors are neither used nor changed.
        start: parameters and buffers; the buffers are used.
        x: examples.
        y: their labels.
        frozen: see above.
    """
    buffers = {name: start[name] for name in network.buffers}
    inputs = network.inputs(x)
    recurrent = [layer for layer in network.module.modules() if isinstance(layer, nn.RNNBase)]

    def loss(params: Tree) -> Tensor:
        module = network.module
        modes = {layer: layer.training for layer in module.modules()}
        module.eval()
        for norm in batch_norms(module).values():
            norm.train(not frozen)
        for cell in recurrent:  # on a GPU they have a backward pass in training mode alone
            cell.train()
        try:
            copies = {name: b.clone() for name, b in buffers.items()}
            outputs: Any = functional_call(module, {**copies, **params}, (inputs,))
            return losses(outputs, y).mean()
        finally:
            for layer, mode in modes.items():
                layer.training = mode

    return loss


def client_bend(
    spec: ClientSpec, network: Network, start: Mapping[str, Tensor], client: int, examples: Examples
) -> Bend:
    """Measure how a client's loss bends where its local training starts, on a bounded sample of its examples."""
    measure = spec.measure
    x, y = sample_of(examples, client, measure.examples, spec.seed)
    loss = client_loss(network, start, x, y, frozen=spec.batch_norm == "freeze")
    params = {name: start[name] for name in network.params}
    twice = twice_differentiable(network.module)
    return bend(loss, params, steps=measure.lanczos_steps, seed=spec.seed, examples=len(y), twice=twice)


def felt(spec: ClientSpec, curvature: float) -> float:
    """Give the curvature that a client's rule feels where its loss has a given one.

    L2 decay adds its strength, the pulls of ``fedprox`` and ``feddyn`` add theirs, and ``fedcm`` scales the client's
    own gradient.
    """
    hyper, options = spec.optimizer, spec.method_options
    decay = float(hyper.get("weight_decay", 0.0)) if hyper.get("decay", "l2") == "l2" else 0.0
    pull = float(options.get({"fedprox": "mu", "feddyn": "alpha"}.get(spec.method, ""), 0.0))
    share = float(options.get("alpha", 1.0)) if spec.method == "fedcm" else 1.0
    return share * curvature + pull + decay
