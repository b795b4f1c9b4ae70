"""Local training of a block, one client after another: serves every model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from fedmomentum.clients.batches import plan
from fedmomentum.clients.block import BlockTask
from fedmomentum.clients.collect import Collector, Records
from fedmomentum.clients.compiled import compiled
from fedmomentum.clients.convolved import convolved
from fedmomentum.clients.early import Early, tensor_by_tensor
from fedmomentum.clients.examples import Examples
from fedmomentum.clients.fused import FusedSGD, fused_sgd
from fedmomentum.clients.local import LocalUpdate, Place
from fedmomentum.clients.network import Network
from fedmomentum.clients.norm import batch_norms, norm_tensors
from fedmomentum.clients.precision import layers, wide
from fedmomentum.clients.rules import own_noise
from fedmomentum.clients.shelf import Shelf
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.heap import give_back
from fedmomentum.models.objective import losses
from fedmomentum.protocol import ARRAYS, GRADIENT
from fedmomentum.streams import key
from fedmomentum.trees import State, Tree

if TYPE_CHECKING:
    from fedmomentum.clients.path import Watch

FULL_BATCH = 1024
"""Examples that a full gradient is computed of at a time."""

NORM = "norm/"
"""Slot of a client's memory that holds its own batch norm."""
_RULE = "rule/"
"""Prefix of the slots of a client's memory that hold its rule's state."""


class LoopedTrainer:
    """Trains the clients of a block in turn in one module that is updated in place."""

    def __init__(
        self,
        spec: ClientSpec,
        network: Network,
        make_local: Callable[[float], LocalUpdate],
        shelf: Shelf | None = None,
    ) -> None:
        """Bind to a network; ``make_local(factor)`` gives the local update with its learning rate times a factor.

        Sums of large models lie on the ``shelf``.
        """
        self.spec, self.network, self.make_local, self.shelf = spec, network, make_local, shelf
        hyper = {k: v for k, v in spec.optimizer.items() if k != "name"}
        self._names, self._params = list(network.params), list(network.params.values())
        clipped = spec.clip_norm is not None
        self._fused = None if clipped else fused_sgd(spec.optimizer["name"], hyper, self._names, self._params)
        self._forward = (
            compiled(spec.compile, network.module, spec.device) if spec.compile != "none" else network.module
        )
        self._written = convolved(network, spec) if spec.compile == "none" else None
        self._lr = float(hyper["lr"])
        self._frozen = list(batch_norms(network.module).values()) if spec.batch_norm == "freeze" else []
        self._kept = norm_tensors(network.module) if spec.batch_norm == "local" else frozenset()
        self.watch: Watch | None = None
        """Sees every step, and changes none."""
        self._noisy = any("dropout" in type(m).__name__.lower() for m in network.module.modules())

    def train(self, task: BlockTask, records: Records, examples: Examples, factor: float) -> Collector:
        """Train every client of the block from the same global model."""
        collector = Collector.of(task, records, self.shelf)
        local = self.make_local(factor)
        shared = {name: tree for name, tree in records.items() if name != ARRAYS}
        for position, client in enumerate(task.clients):
            effort = task.effort[position] if task.effort else 1.0
            try:
                self._client(client, effort, task, records[ARRAYS], shared, local, factor, examples, collector)
            except Exception as error:  # a client's own failure is its own, whatever it is: the round goes on
                collector.fail(client, f"{type(error).__name__}: {error}")
            if task.fold:
                give_back()  # the heap has holes where the state of a rule was
        return collector

    def gradients(self, task: BlockTask, records: Records, examples: Examples) -> Collector:
        """Give the gradient of every client's whole loss at the global model."""
        collector = Collector.of(task, records, self.shelf)
        for client in task.clients:
            count = examples.count(client)
            if count == 0:
                collector.fail(client, "has no training examples")
                continue
            try:
                own = self._at(records[ARRAYS], task.memory.get(client, {}))
                collector.add(client, {GRADIENT: self._full_gradient(own, client, examples)}, count, {})
            except Exception as error:  # as in training: a failure belongs to its client
                collector.fail(client, f"{type(error).__name__}: {error}")
        return collector

    def release(self) -> None:
        """Hold nothing as large as the model between two blocks."""
        if self._fused is not None:
            self._fused.release()

    def _at(self, anchor: Tree, memory: State) -> Tree:
        """Put the network in training mode where the client starts, and give its parameters there."""
        start = anchor | memory.get(NORM, {})
        self.network.copy(start)
        self.network.module.train()
        for layer in self._frozen:
            layer.eval()
        return {name: start[name] for name in self.network.params}

    def _client(
        self,
        client: int,
        effort: float,
        task: BlockTask,
        anchor: Tree,
        shared: dict[str, Tree],
        local: LocalUpdate,
        factor: float,
        examples: Examples,
        collector: Collector,
    ) -> None:
        count = examples.count(client)
        if count == 0:
            collector.fail(client, "has no training examples")
            return
        network, params = self.network, self.network.params
        own = self._at(anchor, task.memory.get(client, {}))
        table = plan(self.spec, count, round=task.round, client=client, effort=effort)
        x, y, (rows,) = examples.block([client], [table])
        memory = dict(task.memory.get(client, {}))
        if local.remember is not None and not any(not slot.startswith((_RULE, NORM)) for slot in memory):
            memory.update(local.remember(own))
        kept = {slot.removeprefix(_RULE): tree for slot, tree in memory.items() if slot.startswith(_RULE)}
        extended = local.direction is not None or local.begin is not None
        plain = self._fused is not None and not extended
        if self._fused is not None and plain:
            self._fused.reset(self._lr * factor, kept)
        if self._noisy:
            torch.manual_seed(key(self.spec.seed, "dropout", round=task.round, client=client))
        full = self._full_gradient(own, client, examples) if local.full_gradient else None
        lr = self._lr * factor
        at = {"round": task.round, "client": client}
        place = Place(
            own,
            shared,
            memory,
            steps=len(rows),
            lr=lr,
            full_gradient=full,
            key=key(self.spec.seed, "noise", **at),
            common_key=key(self.spec.seed, "noise", round=task.round),
            round=task.round,
            examples=float(count),
        )
        state: State = {} if plain else own_noise(kept or local.rule.init(own), place.key)
        if local.begin is not None:
            first, state = local.begin(own, state, place)
            network.copy(first | network.buffers)
            del first
        early: FusedSGD | Early | None = None
        if task.fold and self.watch is None and self._written is None:
            if plain:
                early = self._fused
            elif tensor_by_tensor(local, self.spec):
                if kept or local.begin is not None:  # what others hold as well is not to be written to
                    state = {slot: {n: x.clone() for n, x in tree.items()} for slot, tree in state.items()}
                early, state = Early(params, local, state, place), {}  # held once
        total, seen = torch.zeros((), device=x.device), 0
        index = torch.from_numpy(rows).to(x.device)
        for step in range(len(rows)):
            chosen = index[step, : int((rows[step] >= 0).sum())]  # counted here: a device would be waited for
            xb, yb = x.index_select(0, chosen), y.index_select(0, chosen)
            if self._written is not None:
                loss = self._written.gradient(xb, yb)
            else:
                loss = self._backward(network.inputs(xb), yb, early)
            if self.watch is not None:
                self.watch.step(client, step, len(rows))
            total += loss.detach() * len(chosen)
            seen += len(chosen)
            with torch.no_grad():
                if early is not None:
                    continue
                if self._fused is not None and plain:
                    self._fused.step()
                    continue
                grads = {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in params.items()}
                if self._written is not None:  # its buffers are used again, and a method may keep a gradient
                    grads = {n: g.clone() for n, g in grads.items()}
                here = {n: p.detach() for n, p in params.items()}
                if local.direction is not None:
                    there = replace(place, gradient=partial(self._gradient, xb=xb, yb=yb))
                    grads = local.direction(grads, here, there)
                updates, state = local.rule.update(grads, state, here)
                for name, p in params.items():
                    p.add_(updates[name])
        if isinstance(early, Early):
            state = early.state
        if self.watch is not None:
            self.watch.end(client)
        records: Records = {ARRAYS: network.tree()}
        remembered: State = {}
        if local.finish is not None:
            sent, remembered = local.finish({n: p.detach() for n, p in params.items()}, state, place)
            records = sent if local.compressed else sent | {ARRAYS: records[ARRAYS] | sent.get(ARRAYS, {})}
        if self.spec.keep_state:
            final = self._fused.state() if self._fused is not None and plain else state
            remembered = remembered | {_RULE + slot: tree for slot, tree in final.items()}
        if self._kept:
            ends = network.tree()
            remembered = remembered | {NORM: {name: ends[name].clone() for name in sorted(self._kept)}}
        metrics = {"train_loss": float(total) / seen, "steps": float(len(rows)), "lr": lr}
        collector.add(client, records, count, metrics, remembered)

    def _backward(self, xb: Tensor, yb: Tensor, early: FusedSGD | Early | None) -> Tensor:
        """Give the loss of a minibatch by autograd, with the gradients in ``.grad``, or ``early`` used already."""
        for p in self._params:
            p.grad = None
        with layers(self.spec.precision, self.spec.device):
            outputs = self._forward(xb)
        loss = losses(wide(outputs, self.spec.precision), yb).mean()
        with early.while_backward() if early is not None else nullcontext():
            loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def _gradient(self, point: Tree, xb: Tensor, yb: Tensor) -> Tree:
        """Give the minibatch gradient at another point, without moving the network or its statistics."""
        statistics = {n: b.clone() for n, b in self.network.buffers.items()}
        leaves = {n: t.detach().requires_grad_() for n, t in point.items()}
        with torch.enable_grad():
            with layers(self.spec.precision, self.spec.device):
                outputs: Any = functional_call(self.network.module, statistics | leaves, (xb,))
            loss = losses(wide(outputs, self.spec.precision), yb).mean()
            grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        return {n: g if g is not None else torch.zeros_like(leaves[n]) for n, g in zip(leaves, grads, strict=True)}

    def _full_gradient(self, point: Tree, client: int, examples: Examples) -> Tree:
        """Give the gradient of the mean loss over all training examples of a client."""
        x, y, (rows,) = examples.block([client], [np.arange(examples.count(client))[None]])
        total = {n: torch.zeros_like(t) for n, t in point.items()}
        index = torch.from_numpy(rows[0]).to(x.device)
        for begin in range(0, len(index), FULL_BATCH):
            chosen = index[begin : begin + FULL_BATCH]
            xb, yb = self.network.inputs(x.index_select(0, chosen)), y.index_select(0, chosen)
            for name, g in self._gradient(point, xb, yb).items():
                total[name].add_(g, alpha=len(chosen) / rows.size)
        return total
