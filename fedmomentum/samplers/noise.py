"""Counter-based normal numbers: what a chain draws depends on its own key alone, never on who runs beside it.

A key is one int64; ``C`` chains have keys ``[C]``. Word ``i`` of a key is ``mix(key ^ mix(i * gamma))``, with the
finaliser of SplitMix64 (Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195) as ``mix``. Two words make two normals
(Box and Muller 1958), so every number is a pure function of (key, position) and stacks over any leading axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fedmomentum.samplers.ravel import size, unravel
from fedmomentum.trees import Tree

_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64
_ALL = 2**64 - 1
_SHORT = 1 << 16


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros; torch's own shift of an int64 repeats the sign."""
    return (x >> bits).bitwise_and_(_ALL >> bits)


def _mix(x: Tensor) -> Tensor:
    x = _shift(x, 30).bitwise_xor_(x).mul_(_FIRST)
    x = _shift(x, 27).bitwise_xor_(x).mul_(_SECOND)
    return _shift(x, 31).bitwise_xor_(x)


def _mixed(x: int) -> int:
    """Give :func:`_mix` of one number, which Python does faster than a tensor of no axes."""
    x &= _ALL
    x = (x ^ x >> 30) * (_FIRST & _ALL) & _ALL
    x = (x ^ x >> 27) * (_SECOND & _ALL) & _ALL
    x ^= x >> 31
    return x - (x >> 63 << 64)


def _label(numbers: Tensor) -> Tensor:
    return _mix(numbers * _GAMMA)


def _labels(count: int, device: torch.device) -> Tensor:
    """Give the labels of 0, 1, ..., which every step asks for again."""
    return _short(count, device) if count <= _SHORT else _label(torch.arange(count, device=device))


@lru_cache(maxsize=64)
def _short(count: int, device: torch.device) -> Tensor:
    return _label(torch.arange(count, device=device))


def fold(keys: Tensor, numbers: int | Tensor) -> Tensor:
    """Give keys of their own for a numbered purpose (or chain, or step): ``mix(mix(key) ^ mix(number))``.

    Args:
        keys: int64, any shape.
        numbers: an integer, or an int64 tensor that broadcasts against ``keys``.
    """
    if isinstance(numbers, Tensor):
        return _mix(_mix(keys) ^ _label(numbers))
    return _mix(_mix(keys) ^ _labels(numbers + 1, keys.device)[numbers])


def folds(keys: Tensor, count: int) -> Tensor:
    """Give what :func:`fold` does with 0, ..., ``count - 1``, side by side: int64 ``[*keys, count]``."""
    return _mix(_mix(keys).unsqueeze(-1) ^ _labels(count, keys.device))


def chain_keys(source: torch.Generator | int, chains: int, device: torch.device | str = "cpu") -> Tensor:
    """Give one key per chain, ``[C]`` int64, from a number, or from the one that a generator gives."""
    if isinstance(source, torch.Generator):
        source = int(torch.randint(-(2**63), 2**63 - 1, (), generator=source, device=source.device))
    return _mix(_labels(chains, torch.device(device)) ^ _mixed(source))


def step_keys(numbers: Sequence[int], chains: int, device: torch.device | str = "cpu") -> Tensor:
    """Give the :func:`chain_keys` of T numbers, side by side: int64 ``[T, C]``."""
    mixed = _mix(torch.tensor(numbers, dtype=torch.int64, device=device))
    return _mix(_labels(chains, torch.device(device)) ^ mixed.unsqueeze(-1))


def words(keys: Tensor, count: int) -> Tensor:
    """Give ``count`` uniform 64-bit words a key, int64 ``[*keys, count]``."""
    return _mix(keys[..., None] ^ _labels(count, keys.device))


def uniforms(keys: Tensor, count: int) -> Tensor:
    """Give ``count`` numbers in [0, 1) a key, float64 ``[*keys, count]``, of 53 random bits each."""
    return _shift(words(keys, count), 11).double() * 2.0**-53


def integers(keys: Tensor, count: int, below: int) -> Tensor:
    """Give ``count`` integers in ``[0, below)`` a key, ``[*keys, count]``, drawn with replacement."""
    return (uniforms(keys, count) * below).long()


def normals(keys: Tensor, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Give ``count`` standard normals a key, ``[*keys, count]``.

    ``r cos(w), r sin(w)`` with ``r = sqrt(-2 log u)``; ``u`` and the angle have 32 bits each, so no draw exceeds 6.8.
    """
    wide = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    bits = words(keys, (count + 1) // 2)
    radius = (_shift(bits, 32).to(wide) + 0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = (bits & 0xFFFFFFFF).to(wide).mul_(2.0**-31 * math.pi)
    pairs = torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], -1)
    return pairs[..., :count].to(dtype)


def normal_like(keys: Tensor, tree: Mapping[str, Tensor]) -> Tree:
    """Give a tree of standard normals with the layout of ``tree``, whose leading axes are those of ``keys``."""
    dtypes = {x.dtype for x in tree.values()}
    wide = torch.float64 if torch.float64 in dtypes else torch.float32
    flat = normals(keys, size(tree, leading=keys.ndim), wide)
    return unravel(flat, tree, leading=keys.ndim)
