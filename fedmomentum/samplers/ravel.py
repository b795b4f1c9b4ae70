"""A tree as one vector a chain, for what couples coordinates: mass matrices, covariances, distances."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedmomentum.trees import Tree


def size(tree: Mapping[str, Tensor], *, leading: int = 1) -> int:
    """Give the number of coordinates of one chain, ``P``."""
    return sum(math.prod(x.shape[leading:]) for x in tree.values())


def ravel(tree: Mapping[str, Tensor], *, leading: int = 1) -> Tensor:
    """Give ``[*leading, P]``: the tensors one after another, in the order of the tree; a lone vector as it is."""
    if len(tree) == 1:
        (only,) = tree.values()
        if only.ndim == leading + 1:
            return only
    return torch.cat([x.flatten(leading) if x.ndim > leading else x.unsqueeze(-1) for x in tree.values()], -1)


def unravel(flat: Tensor, like: Mapping[str, Tensor], *, leading: int = 1) -> Tree:
    """Undo :func:`ravel`: names, trailing shapes and dtypes come from ``like``, leading axes from ``flat``.

    Raises:
        ValueError: the numbers of coordinates differ.
    """
    sizes = [math.prod(x.shape[leading:]) for x in like.values()]
    if flat.shape[-1] != sum(sizes):
        raise ValueError(f"{flat.shape[-1]} coordinates do not fill a tree of {sum(sizes)}")
    if len(like) == 1:
        ((name, x),) = like.items()
        if x.ndim == leading + 1:
            return {name: flat.to(x.dtype)}
    parts = torch.split(flat, sizes, -1)
    return {
        name: part.reshape(*flat.shape[:-1], *x.shape[leading:]).to(x.dtype)
        for (name, x), part in zip(like.items(), parts, strict=True)
    }


def chains(position: Mapping[str, Tensor]) -> int:
    """Give the number of stacked chains, ``C``.

    Raises:
        ValueError: the tree is empty, or its tensors do not share a leading chain axis; the message names one.
    """
    if not position:
        raise ValueError("a position needs at least one tensor")
    first = next(iter(position))
    for name, x in position.items():
        if x.ndim == 0 or x.shape[0] != position[first].shape[:1].numel():
            raise ValueError(
                f"tensor '{name}' has shape {list(x.shape)}: every tensor needs the chain axis that leads "
                f"'{first}' {list(position[first].shape)}"
            )
    return position[first].shape[0]


def counter(position: Mapping[str, Tensor]) -> Tensor:
    """Give the step count of chains that begin at a position: int64 zeros ``[C]``, on its device."""
    number = chains(position)
    return torch.zeros(number, dtype=torch.int64, device=next(iter(position.values())).device)
