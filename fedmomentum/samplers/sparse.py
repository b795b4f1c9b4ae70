"""Random coordinates of a vector: a compressor without bias, whose choice is a function of a key and is not sent.

``C(v)_j = v_j P / m`` on m of the P coordinates, zero elsewhere: ``E C(v) = v``, ``Var C(v)_j = (P / m - 1) v_j^2``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedmomentum.samplers.noise import uniforms


def kept_count(size: int, *, keep: float) -> int:
    """Give m, how many of ``size`` coordinates are sent: a share ``keep``, at least one."""
    return max(1, min(size, round(keep * size)))


def kept_coordinates(keys: Tensor, size: int, *, keep: float) -> Tensor:
    """Give which coordinates are sent, every subset of that many as likely as any other: int64 ``[*keys, m]``, rising.

    Args:
        keys: int64, one a client.
        size: P.
        keep: share of the coordinates, in (0, 1].
    """
    order = uniforms(keys, size).argsort(-1)
    return order[..., : kept_count(size, keep=keep)].sort(-1).values


def filled(values: Tensor, key: Tensor, size: int, *, keep: float) -> Tensor:
    """Give the vector ``[size]`` that a client has sent, with zeros where it sent nothing.

    Raises:
        ValueError: there are not as many numbers as coordinates.
    """
    chosen = kept_coordinates(key, size, keep=keep)
    if chosen.shape != values.shape:
        raise ValueError(f"{list(values.shape)} numbers do not fill {list(chosen.shape)} coordinates")
    return torch.zeros(size, dtype=values.dtype).scatter_(-1, chosen, values)
