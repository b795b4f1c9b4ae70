"""Each network computes what its paper draws: written out with torch's functions, in the paper's own order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmomentum.models import build

Weights = Mapping[str, Tensor]


def dense(w: Weights, layer: str, x: Tensor) -> Tensor:
    return x.flatten(1) @ w[f"{layer}.weight"].T + w[f"{layer}.bias"]


def conv(w: Weights, layer: str, x: Tensor, *, padding: int, stride: int = 1) -> Tensor:
    return F.conv2d(x, w[f"{layer}.weight"], w.get(f"{layer}.bias"), stride=stride, padding=padding)


def norm(w: Weights, layer: str, x: Tensor, groups: int | None) -> Tensor:
    """Normalise by the batch's moments (``groups`` is None) or by each example's, with the layer's scale and shift."""
    if groups is None:
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
        y = (x - mean) / (var + 1e-5).sqrt()
    else:
        parts = x.unflatten(1, (groups, -1))
        mean, var = parts.mean((2, 3, 4), keepdim=True), parts.var((2, 3, 4), keepdim=True, unbiased=False)
        y = ((parts - mean) / (var + 1e-5).sqrt()).flatten(1, 2)
    return y * w[f"{layer}.weight"][:, None, None] + w[f"{layer}.bias"][:, None, None]


def logistic(w: Weights, x: Tensor) -> Tensor:
    return dense(w, "fc", x)


def mlp(w: Weights, x: Tensor) -> Tensor:
    return dense(w, "fc3", dense(w, "fc2", dense(w, "fc1", x).relu()).relu())


def cnn_small(padding: int) -> Callable[[Weights, Tensor], Tensor]:
    def forward(w: Weights, x: Tensor) -> Tensor:
        x = F.max_pool2d(conv(w, "conv1", x, padding=padding).relu(), 2)
        x = F.max_pool2d(conv(w, "conv2", x, padding=padding).relu(), 2)
        return dense(w, "fc2", dense(w, "fc1", x).relu())

    return forward


def cnn_mcmahan(w: Weights, x: Tensor) -> Tensor:
    x = F.max_pool2d(conv(w, "conv1", x, padding=2).relu(), 2)
    x = F.max_pool2d(conv(w, "conv2", x, padding=2).relu(), 2)
    return dense(w, "fc2", dense(w, "fc1", x).relu())


def cnn_fedavgm(groups: int | None, *, normalised: bool = True) -> Callable[[Weights, Tensor], Tensor]:
    def forward(w: Weights, x: Tensor) -> Tensor:
        x = F.max_pool2d(conv(w, "conv1", x, padding=2).relu(), 3, stride=2)
        x = norm(w, "norm1", x, groups) if normalised else x
        x = conv(w, "conv2", x, padding=2).relu()
        x = norm(w, "norm2", x, groups) if normalised else x
        x = F.max_pool2d(x, 3, stride=2)
        return dense(w, "fc3", dense(w, "fc2", dense(w, "fc1", x).relu()).relu())

    return forward


def resnet(groups: Mapping[int, int] | None) -> Callable[[Weights, Tensor], Tensor]:
    """ResNet-8 of width 4; ``groups`` of the group norms by channels."""

    def normed(w: Weights, layer: str, x: Tensor) -> Tensor:
        return norm(w, layer, x, groups[x.shape[1]] if groups else None)

    def forward(w: Weights, x: Tensor) -> Tensor:
        x = normed(w, "norm1", conv(w, "conv1", x, padding=1)).relu()
        for stage, stride in ((1, 1), (2, 2), (3, 2)):
            block = f"stage{stage}_block1"
            y = normed(w, f"{block}.norm1", conv(w, f"{block}.conv1", x, padding=1, stride=stride)).relu()
            y = normed(w, f"{block}.norm2", conv(w, f"{block}.conv2", y, padding=1))
            shortcut = torch.zeros_like(y)
            shortcut[:, : x.shape[1]] = x[:, :, ::stride, ::stride]
            x = (y + shortcut).relu()
        return dense(w, "fc", x.mean((2, 3)))

    return forward


@pytest.mark.parametrize(
    ("name", "shape", "options", "written_out"),
    [
        ("logistic", (2, 3, 3), {}, logistic),
        ("mlp", (2, 3, 3), {"hidden": [7, 5]}, mlp),
        ("cnn_small", (1, 13, 16), {}, cnn_small(0)),
        ("cnn_small", (2, 9, 8), {"padding": 1}, cnn_small(1)),
        ("cnn_mcmahan", (2, 9, 8), {}, cnn_mcmahan),
        ("cnn_fedavgm", (2, 11, 14), {"norm": "batch"}, cnn_fedavgm(None)),
        ("cnn_fedavgm", (2, 11, 14), {"norm": "group"}, cnn_fedavgm(8)),
        ("cnn_fedavgm", (2, 11, 14), {"norm": "none"}, cnn_fedavgm(None, normalised=False)),
        ("resnet", (3, 9, 12), {"depth": 8, "width": 4, "norm": "batch"}, resnet(None)),
        ("resnet", (3, 9, 12), {"depth": 8, "width": 4, "norm": "group"}, resnet({4: 4, 8: 8, 16: 8})),
    ],
)
def test_the_network_is_the_papers(
    name: str, shape: Sequence[int], options: Mapping[str, Any], written_out: Callable[[Weights, Tensor], Tensor]
) -> None:
    rng = torch.Generator().manual_seed(0)
    model = build(name, input_shape=shape, classes=4, seed=0, **options).double()
    for parameter in model.parameters():  # also a norm's scale and shift, which start at one and zero
        nn.init.normal_(parameter, std=0.3, generator=rng)
    images = torch.randn(6, *shape, dtype=torch.float64, generator=rng)
    weights = dict(model.named_parameters())

    outputs, wanted = model(images), written_out(weights, images)
    torch.testing.assert_close(outputs, wanted, rtol=1e-9, atol=1e-9)
    cotangent = torch.randn(outputs.shape, dtype=torch.float64, generator=rng)
    grads, wanted_grads = (torch.autograd.grad(y, list(weights.values()), cotangent) for y in (outputs, wanted))
    for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad, wanted_grad, rtol=1e-7, atol=1e-9)
