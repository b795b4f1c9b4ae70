"""A torch module seen as a tree: its trainable parameters, and its buffers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedmomentum import models
from fedmomentum.clients.spec import ModelSpec
from fedmomentum.trees import Tree, cast_like, same_layout


class Network:
    """A module whose tensors can be set from a tree and read as one.

    Parameters that do not require a gradient count as buffers: they travel, and no rule moves them.
    """

    def __init__(self, spec: ModelSpec, device: str = "cpu") -> None:
        """Build the network on a device; convolutions get the memory layout in which they are fastest."""
        self.module = build(spec).to(device)
        self.convolutional = any(isinstance(m, nn.Conv2d) for m in self.module.modules())
        if self.convolutional:
            self.module = self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.params: dict[str, nn.Parameter] = {n: p for n, p in self.module.named_parameters() if p.requires_grad}
        kept = self.module.state_dict()
        self.buffers: Tree = {n: b for n, b in kept.items() if n not in self.params}
        self._released: list[tuple[torch.UntypedStorage, int]] = []

    def tree(self) -> Tree:
        """Give parameters and buffers as they are now, sharing memory with the module."""
        return {**{n: p.detach() for n, p in self.params.items()}, **self.buffers}

    def release(self) -> None:
        """Give the memory of all tensors back until a model is loaded; there is nothing to read till then."""
        storages = [x.untyped_storage() for x in self.tree().values()]
        self._released += [
            (storage, size) for storage in storages if (size := storage.nbytes()) and storage.resizable()
        ]
        for storage, _ in self._released:
            storage.resize_(0)

    @property
    def released(self) -> bool:
        """Say whether there is nothing to read."""
        return bool(self._released)

    def load(self, tree: Mapping[str, Tensor]) -> None:
        """Set every tensor from a tree of the same layout, cast to the network's dtypes.

        Some servers send float64 (Flower's own FedAdam does); a client has its own precision all the same.

        Raises:
            KeyError: a tensor is missing or unknown; the message names it.
            ValueError: a tensor has another shape; the message names it.
        """
        same_layout(tree, self.tree())
        self.copy(tree)

    def copy(self, tree: Mapping[str, Tensor]) -> None:
        """Set every tensor from a tree that is known to fit."""
        for storage, size in self._released:
            storage.resize_(size)
        self._released = []
        with torch.no_grad():
            for name, own in self.tree().items():
                own.copy_(cast_like(tree[name], own))

    def inputs(self, x: Tensor) -> Tensor:
        """Give a minibatch in the layout that the network likes best."""
        return x.contiguous(memory_format=torch.channels_last) if self.convolutional and x.ndim == 4 else x


def build(spec: ModelSpec) -> nn.Module:
    """Build the module that a spec describes."""
    return models.build(
        spec.name, input_shape=spec.input_shape, classes=spec.classes, seed=spec.seed, **dict(spec.options)
    )
