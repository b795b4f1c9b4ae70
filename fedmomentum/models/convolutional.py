"""The convolutional networks that papers about federated learning report on.

Max pooling and ReLU commute, values and gradients alike, so every model here pools first: the ReLU then has a quarter
of the numbers to pass over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from fedmomentum.errors import UserError
from fedmomentum.models.image import Norm, image_shape, normalisation


def cnn_mcmahan(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Give the CNN of McMahan et al. (arXiv:1602.05629): two 5x5 convolutions (32, 64), each pooled 2x2, and 512 units.

    1,663,370 parameters on 1x28x28 images and 10 classes, as published.

    Args:
        input_shape: ``[channels, height, width]``, at least 4x4.
        classes: number of classes.

    Raises:
        UserError: examples are no images, or too small.
    """
    channels, height, width = image_shape("cnn_mcmahan", input_shape, smallest=4)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 32, 5, padding=2),
            pool1=nn.MaxPool2d(2),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(32, 64, 5, padding=2),
            pool2=nn.MaxPool2d(2),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(64 * (height // 4) * (width // 4), 512),
            relu3=nn.ReLU(),
            fc2=nn.Linear(512, classes),
        )
    )


def cnn_fedavgm(*, input_shape: Sequence[int], classes: int, norm: Norm = "batch") -> nn.Module:
    """Give the CNN of Hsu, Qi and Brown (arXiv:1909.06335) as Flower's FedAvgM baseline builds it.

    Two 5x5 convolutions of 64 channels, overlapping 3x3 pools of stride 2, a norm after each, then 384 and 192 units.
    1,065,354 parameters on 1x28x28 images and 10 classes. The baseline also has an L2 penalty of 0.004 on the dense
    layers: that is the optimizer's part (``weight_decay``), not the model's.

    Args:
        input_shape: ``[channels, height, width]``, at least 7x7.
        classes: number of classes.
        norm: ``batch`` as published, ``group`` or ``none``.

    Raises:
        UserError: examples are no images, or too small; ``norm`` is unknown.
    """
    channels, height, width = image_shape("cnn_fedavgm", input_shape, smallest=7)
    height, width = (((size - 1) // 2 - 1) // 2 for size in (height, width))
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 64, 5, padding=2),
            pool1=nn.MaxPool2d(3, stride=2),
            relu1=nn.ReLU(),
            norm1=normalisation("cnn_fedavgm", norm, 64),
            conv2=nn.Conv2d(64, 64, 5, padding=2),
            relu2=nn.ReLU(),
            norm2=normalisation("cnn_fedavgm", norm, 64),
            pool2=nn.MaxPool2d(3, stride=2),  # after the norm, whose scale may be negative: here the order matters
            flatten=nn.Flatten(),
            fc1=nn.Linear(64 * height * width, 384),
            relu3=nn.ReLU(),
            fc2=nn.Linear(384, 192),
            relu4=nn.ReLU(),
            fc3=nn.Linear(192, classes),
        )
    )


def cnn_small(*, input_shape: Sequence[int], classes: int, padding: int = 0) -> nn.Module:
    """Give a small CNN: 3x3 convolutions of 32 and 64 channels, each pooled 2x2, and 128 units.

    Without padding the pools may drop a row and a column; what only feeds those is cropped from the image first,
    which changes no output and no gradient, and saves a sixth of the work on 28x28.

    Args:
        input_shape: ``[channels, height, width]``, at least 10x10, or 4x4 with ``padding=1``.
        classes: number of classes.
        padding: 0, or 1 to keep an image's size through a convolution.

    Raises:
        UserError: examples are no images, or too small; ``padding`` is neither.
    """
    if padding not in (0, 1):
        raise UserError(f"model 'cnn_small': padding must be 0 or 1, not {padding!r}")
    smallest, hint = (4, "") if padding else (10, "with padding: 1 it takes 4x4")
    channels, height, width = image_shape("cnn_small", input_shape, smallest=smallest, hint=hint)
    rows, columns = (size // 4 if padding else (size - 6) // 4 for size in (height, width))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if not padding:
        layers["crop"] = Crop(4 * rows + 6, 4 * columns + 6)
    layers.update(
        conv1=nn.Conv2d(channels, 32, 3, padding=padding),
        pool1=nn.MaxPool2d(2),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(32, 64, 3, padding=padding),
        pool2=nn.MaxPool2d(2),
        relu2=nn.ReLU(),
        flatten=nn.Flatten(),
        fc1=nn.Linear(64 * rows * columns, 128),
        relu3=nn.ReLU(),
        fc2=nn.Linear(128, classes),
    )
    return nn.Sequential(layers)


class Crop(nn.Module):
    """Keep the first ``height`` rows and ``width`` columns of an image."""

    def __init__(self, height: int, width: int) -> None:
        """Say how much to keep."""
        super().__init__()
        self.height, self.width = height, width

    def forward(self, images: Tensor) -> Tensor:
        """Crop images ``[..., H, W]``."""
        return images[..., : self.height, : self.width]

    def extra_repr(self) -> str:
        """Show the size in the model's printout."""
        return f"{self.height}, {self.width}"
