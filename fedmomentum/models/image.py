"""What the convolutional models share: reading an image's shape, and a choice of normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import nn

from fedmomentum.errors import UserError

Norm: TypeAlias = Literal["batch", "group", "none"]
"""``batch``: over the batch, with running statistics; ``group``: over each example; ``none``."""

GROUPS = 8
"""Most groups that a group norm makes; fewer where they would not divide the channels."""


def image_shape(model: str, input_shape: Sequence[int], *, smallest: int = 1, hint: str = "") -> tuple[int, int, int]:
    """Give ``(channels, height, width)``.

    Args:
        model: name of the model, for the message.
        input_shape: an example's shape.
        smallest: least height and width that leave the model something after its last pool.
        hint: what else the user could do about an image that is too small.

    Raises:
        UserError: examples are no images, or smaller than ``smallest``.
    """
    if len(input_shape) != 3:
        raise UserError(
            f"model '{model}' wants images [channels, height, width]; the data's examples have shape "
            f"{list(input_shape)} (a model that takes any: 'mlp')"
        )
    channels, height, width = input_shape
    if min(height, width) < smallest:
        raise UserError(
            f"model '{model}' wants images of at least {smallest}x{smallest}, not {height}x{width}: "
            f"its pools would leave nothing{hint and f' ({hint})'}"
        )
    return channels, height, width


def normalisation(model: str, norm: Norm, channels: int) -> nn.Module:
    """Give the layer that normalises a map of so many channels.

    Raises:
        UserError: ``norm`` is not one of the three.
    """
    match norm:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "group":
            return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
        case "none":
            return nn.Identity()
        case _:
            raise UserError(f"model '{model}': norm must be 'batch', 'group' or 'none', not {norm!r}")
