"""In which precision the layers of a client's network work; parameters, velocities, losses and means stay float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from fedmomentum.clients.spec import Precision
from fedmomentum.errors import UserError


def check(precision: Precision, device: str) -> None:
    """Refuse a precision that the hardware does not have.

    Raises:
        UserError: it does not have it; the message says what to use.
    """
    cuda = device.startswith("cuda")
    if precision == "tf32" and not cuda:
        raise UserError(
            f"engine.precision: tf32 is for NVIDIA GPUs; clients train on the {device}. Use float32 or bf16."
        )
    if precision == "bf16" and not (torch.cuda.is_bf16_supported() if cuda else _cpu_has_bf16()):
        raise UserError(
            f"engine.precision: this machine's {'GPU' if cuda else 'CPU'} has no bfloat16 arithmetic, so bf16 would be "
            f"slower than float32. Use {'tf32 or ' if cuda else ''}float32."
        )


def adopt(precision: Precision, device: str) -> None:
    """Set what torch keeps for the whole process: whether a GPU may round products to TF32."""
    if device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"


def layers(precision: Precision, device: str) -> AbstractContextManager[object]:
    """Give a context in which layers work in the precision; a loss is taken outside of it."""
    if precision != "bf16":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def wide(outputs: Tensor, precision: Precision) -> Tensor:
    """Give outputs in the precision in which a loss is taken."""
    return outputs.float() if precision == "bf16" else outputs


def _cpu_has_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
