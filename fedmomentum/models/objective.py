"""What a network is trained on and judged by, one number an example.

Targets that are class indices ask for cross entropy, targets that are numbers for squares. All take a batch of examples
``[B, V]`` or of sequences ``[B, T, V]``, and work inside ``torch.func.vmap``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Give each example's cross entropy in nats, or half its squared error where targets are numbers.

    Cross entropy is ``-log softmax(outputs)[target]``, averaged over time for a sequence. Half the squared error,
    ``|outputs - target|^2 / 2``, is the negative log likelihood under noise of variance 1, up to a constant.

    Args:
        outputs: logits ``[B, V]``, or ``[B, T, V]`` for sequences; for numbers ``[B, V]``.
        targets: class indices ``[B]`` or ``[B, T]``, int64; or numbers ``[B, V]``.

    Returns:
        ``[B]``.

    Raises:
        ValueError: the targets' shape does not fit that of the outputs.
    """
    if targets.is_floating_point():
        if outputs.shape != targets.shape or targets.ndim != 2:
            shapes = f"outputs {list(outputs.shape)} and targets {list(targets.shape)}"
            kind = str(targets.dtype).removeprefix("torch.")
            raise ValueError(
                f"{shapes} do not match: classes are int64, not {kind}; numbers need one output each, [B, V]"
            )
        return 0.5 * (outputs - targets).square().sum(1)
    _same_examples(outputs, targets)
    each = F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none")
    return _mean_over_time(each.view(targets.shape))


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """Give the share of each example's targets that have the largest logit: 0 or 1, or a mean over a sequence's steps.

    Args:
        outputs: logits ``[B, V]``, or ``[B, T, V]`` for sequences.
        targets: class indices ``[B]`` or ``[B, T]``, int64.

    Returns:
        ``[B]`` in the dtype of the outputs.

    Raises:
        ValueError: the targets' shape is not that of the outputs without their last axis.
    """
    _same_examples(outputs, targets)
    return _mean_over_time((outputs.argmax(-1) == targets).to(outputs.dtype))


def _mean_over_time(values: Tensor) -> Tensor:
    return values if values.ndim == 1 else values.flatten(1).mean(1)


def _same_examples(outputs: Tensor, targets: Tensor) -> None:
    if outputs.shape[:-1] != targets.shape or targets.ndim == 0:
        shapes = f"outputs {list(outputs.shape)} and targets {list(targets.shape)}"
        raise ValueError(f"{shapes} do not match: want [B, V] with [B], or [B, T, V] with [B, T]")
    if targets.dtype != torch.int64:
        raise ValueError(f"targets must be class indices (int64), not {str(targets.dtype).removeprefix('torch.')}")
