"""Residual networks for small images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fedmomentum.errors import UserError
from fedmomentum.models.image import Norm, image_shape, normalisation


def resnet(
    *, input_shape: Sequence[int], classes: int, depth: int = 20, width: int = 16, norm: Norm = "group"
) -> nn.Module:
    """Give the residual network for small images of He et al. (arXiv:1512.03385, section 4.2).

    A 3x3 convolution, three stages of ``n = (depth - 2) / 6`` blocks of two 3x3 convolutions with ``width``,
    ``2 width`` and ``4 width`` channels, the mean over the image, one dense layer. Shortcuts have no parameters (the
    paper's option A).
    ``depth=20, norm="batch"`` is ResNet-20: 0.27 million parameters on 3x32x32. Group norm is the default because batch
    statistics of non-IID clients disagree (arXiv:1910.00189).

    Args:
        input_shape: ``[channels, height, width]``.
        classes: number of classes.
        depth: layers with weights on one path, ``6 n + 2``: 8, 14, 20, ...
        width: channels of the first stage.
        norm: ``group`` or ``batch``.

    Raises:
        UserError: examples are no images; depth, width or norm is none of these.
    """
    channels, _, _ = image_shape("resnet", input_shape)
    if depth < 8 or (depth - 2) % 6:
        raise UserError(f"model 'resnet': depth must be 6 n + 2, such as 8, 14 or 20, not {depth!r}")
    if width < 1:
        raise UserError(f"model 'resnet': width must be a positive number of channels, not {width!r}")
    if norm == "none":
        raise UserError("model 'resnet': norm must be 'batch' or 'group', not 'none'")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=_conv3x3(channels, width), norm1=normalisation("resnet", norm, width), relu1=nn.ReLU()
    )
    fan_in = width
    for stage in range(3):
        fan_out = width * 2**stage
        for block in range((depth - 2) // 6):
            layers[f"stage{stage + 1}_block{block + 1}"] = Block(fan_in, fan_out, norm)
            fan_in = fan_out
    layers.update(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(fan_in, classes))
    return nn.Sequential(layers)


class Block(nn.Module):
    """``relu(x + norm(conv(relu(norm(conv(x))))))``; where channels grow, x is halved in size and padded with zeros."""

    def __init__(self, fan_in: int, fan_out: int, norm: Norm) -> None:
        """Make the two convolutions; the first has stride 2 where ``fan_out`` is more than ``fan_in``."""
        super().__init__()
        self.grown = fan_out - fan_in
        self.conv1 = _conv3x3(fan_in, fan_out, stride=2 if self.grown else 1)
        self.norm1 = normalisation("resnet", norm, fan_out)
        self.conv2 = _conv3x3(fan_out, fan_out)
        self.norm2 = normalisation("resnet", norm, fan_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, C', H', W']``."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        shortcut = F.pad(x[..., ::2, ::2], (0, 0, 0, 0, 0, self.grown)) if self.grown else x
        return F.relu(y + shortcut)


def _conv3x3(fan_in: int, fan_out: int, *, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False)  # the norm behind it has the bias
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
