"""A model on a data set, trained on this machine, minibatch by minibatch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmomentum.build_data import load_dataset
from fedmomentum.clients.evaluate import evaluate
from fedmomentum.clients.network import Network
from fedmomentum.clients.spec import ModelSpec
from fedmomentum.models.objective import losses
from fedmomentum.scenario.optimize import Training
from fedmomentum.streams import stream
from fedmomentum.translate import model_options
from fedmomentum.trees import Tree


class TrainingTask:
    """Gradients of the mean cross entropy on minibatches: each epoch is a fresh permutation of the training set."""

    def __init__(self, block: Training, seed: int) -> None:
        """Load the data and build the model."""
        self.data = load_dataset(block.data, seed)
        self.seed = seed
        self.network = Network(
            ModelSpec(
                name=block.model.name,
                input_shape=tuple(self.data.x.shape[1:]),
                classes=self.data.classes,
                seed=seed,
                options=model_options(block.model),
            )
        )
        self.name = block.data.name
        examples = len(self.data.x)
        self.batch = examples if block.batch_size == "all" else min(block.batch_size, examples)
        self.per_epoch = examples // self.batch
        self.x, self.y = torch.from_numpy(self.data.x), torch.from_numpy(self.data.y)
        self.test = torch.from_numpy(self.data.test_x), torch.from_numpy(self.data.test_y)
        self._order: tuple[int, np.ndarray[tuple[int], np.dtype[np.int64]]] | None = None
        self._seen: list[float] = []

    def facts(self) -> Mapping[str, object]:
        """Say how big it is, and which data it is about."""
        return {
            "parameters": sum(p.numel() for p in self.network.params.values()),
            "train_examples": len(self.y),
            "data": self.name,
            "data_checksum": self.data.checksum,
        }

    def start(self) -> Tree:
        """Give the weights that the seed makes; buffers stay in the network."""
        return {name: p.detach().clone() for name, p in self.network.params.items()}

    def gradient(self, params: Tree, step: int) -> Tree:
        """Give the gradient on the minibatch of a step; buffers (running statistics) move with it."""
        rows = self.rows(step)
        self._set(params)
        self.network.module.train()
        loss = losses(self.network.module(self.network.inputs(self.x[rows])), self.y[rows]).mean()
        grads = torch.autograd.grad(loss, list(self.network.params.values()))
        self._seen.append(loss.item())
        return dict(zip(self.network.params, (g.detach() for g in grads), strict=True))

    def measure(self, params: Tree) -> dict[str, float]:
        """Give loss and accuracy on the test set, and the mean loss of the minibatches since the last row."""
        self._set(params)
        seen, self._seen = self._seen, []
        mean = {"train_loss": sum(seen) / len(seen)} if seen else {}
        return {**evaluate(self.network, *self.test), **mean}

    def point(self, params: Tree) -> Tensor | None:
        """There is no picture of so many coordinates."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Give running statistics, and the losses since the last row."""
        return {"buffers": {name: b.clone() for name, b in self.network.buffers.items()}, "seen": list(self._seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set them to where they were."""
        with torch.no_grad():
            for name, own in self.network.buffers.items():
                own.copy_(state["buffers"][name])
        self._seen = [float(loss) for loss in state["seen"]]

    def rows(self, step: int) -> Tensor:
        """Give the examples of a step (from 1)."""
        epoch, place = divmod(step - 1, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, stream(self.seed, "batches", epoch=epoch).permutation(len(self.y))
        return torch.from_numpy(self._order[1][place * self.batch : (place + 1) * self.batch])

    def _set(self, params: Tree) -> None:
        with torch.no_grad():
            for name, own in self.network.params.items():
                own.copy_(params[name])
