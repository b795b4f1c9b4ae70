"""Local training of a block with its clients stacked on a leading axis: each operation serves all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from fedmomentum.clients.batches import plan
from fedmomentum.clients.block import BlockTask
from fedmomentum.clients.collect import Collector, Records
from fedmomentum.clients.dense import Gradients, dense_gradients, dense_momentum
from fedmomentum.clients.examples import Examples
from fedmomentum.clients.fused import plain_momentum
from fedmomentum.clients.local import LocalUpdate, Place
from fedmomentum.clients.looped import FULL_BATCH
from fedmomentum.clients.network import Network
from fedmomentum.clients.rules import own_noise
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.models.objective import losses
from fedmomentum.protocol import ARRAYS, GRADIENT
from fedmomentum.streams import key
from fedmomentum.trees import State, Tree, expand, stack, unstack

_RULE = "rule/"

STACK_BYTES = 8 << 20
"""Parameters that are stacked at a time: past the share of the cache that a core has, operations wait for memory."""


class StackedTrainer:
    """Trains the clients of a block at once by ``torch.func.vmap``; equal to the loop to float tolerance."""

    def __init__(self, spec: ClientSpec, network: Network, make_local: Callable[[float], LocalUpdate]) -> None:
        """Bind to a network without buffers; see :class:`~fedmomentum.clients.looped.LoopedTrainer`."""
        self.spec, self.network, self.make_local = spec, network, make_local
        self._lr = float(spec.optimizer["lr"])
        self._gradients: Gradients = dense_gradients(network.module) or vmap(grad_and_value(self._loss))
        self._momentum = plain_momentum(spec)
        self._step = dense_momentum(network.module) if self._momentum is not None else None
        size = sum(p.numel() * p.element_size() for p in network.params.values())
        self._width = max(1, STACK_BYTES // max(size, 1))

    def _loss(self, params: Tree, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        outputs: Any = functional_call(self.network.module, params, (x,))
        return (losses(outputs, y) * weight).sum() / weight.sum()

    def train(self, task: BlockTask, records: Records, examples: Examples, factor: float) -> Collector:
        """Train every client of the block from the same global model.

        Clients are ordered by their number of steps, so those still at work at any step are the first ones, and a
        client that is done costs nothing.
        """
        collector = Collector(reduce=task.reduce, uniform=task.uniform)
        local = self.make_local(factor)
        effort = dict(zip(task.clients, task.effort or [1.0] * len(task.clients), strict=True))
        counts = {client: examples.count(client) for client in task.clients}
        for client in task.clients:
            if counts[client] == 0:
                collector.fail(client, "has no training examples")
        plans = {
            c: plan(self.spec, counts[c], round=task.round, client=c, effort=effort[c])
            for c in task.clients
            if counts[c]
        }
        clients = sorted(plans, key=lambda c: (-len(plans[c]), task.clients.index(c)))
        for begin in range(0, len(clients), self._width):
            some = clients[begin : begin + self._width]
            self._together(some, plans, counts, task, records, examples, local, factor, collector)
        return collector

    def _together(
        self,
        clients: list[int],
        plans: Mapping[int, np.ndarray],
        counts: Mapping[int, int],
        task: BlockTask,
        records: Records,
        examples: Examples,
        local: LocalUpdate,
        factor: float,
        collector: Collector,
    ) -> None:
        """Train clients, in falling order of their steps, at once."""
        x, y, rows = examples.block(clients, [plans[c] for c in clients])
        steps = np.array([len(r) for r in rows])
        anchor = {name: records[ARRAYS][name] for name in self.network.params}
        shared = {name: tree for name, tree in records.items() if name != ARRAYS}
        memory_K = self._recall(task.memory, clients, local, anchor)
        keys_K = torch.tensor([key(self.spec.seed, "noise", round=task.round, client=c) for c in clients])
        keys_K = keys_K.to(x.device)
        state_K: State = {s.removeprefix(_RULE): t for s, t in memory_K.items() if s.startswith(_RULE)}
        state_K = own_noise(state_K, keys_K)
        params_K = expand(anchor, len(clients))
        anchor_K = _broadcast(anchor, len(clients))
        shared_K = {record: _broadcast(tree, len(clients)) for record, tree in shared.items()}
        full_K = self._full_gradients(anchor_K, clients, examples) if local.full_gradient else None
        steps_K = torch.from_numpy(steps).to(x.device)
        place = Place(
            anchor_K,
            shared_K,
            memory_K,
            steps=steps_K,
            lr=self._lr * factor,
            full_gradient=full_K,
            key=keys_K,
            common_key=key(self.spec.seed, "noise", round=task.round),
            round=task.round,
            examples=torch.tensor([float(counts[c]) for c in clients], dtype=torch.float64, device=x.device),
        )
        if local.begin is not None:
            first_K, state_K = local.begin(anchor_K, state_K, place)
            params_K = {name: x.clone() for name, x in first_K.items()}
        total_K = torch.zeros(len(clients), device=x.device)
        seen_K = torch.zeros(len(clients), device=x.device)
        table_SKB = torch.from_numpy(_pad(rows)).to(x.device)
        weights_SKB = (table_SKB >= 0).to(x.dtype if x.is_floating_point() else torch.float32)
        table_SKB.clamp_(min=0)
        fused = (
            self._step if local.direction is None and local.begin is None else None
        )  # in place, on memory of its own
        for step in range(int(steps[0])):
            active = int((steps > step).sum())
            chosen = table_SKB[step, :active]
            xb = x.index_select(0, chosen.reshape(-1)).view(*chosen.shape, *x.shape[1:])
            yb = y.index_select(0, chosen.reshape(-1)).view(*chosen.shape, *y.shape[1:])
            wb = weights_SKB[step, :active]
            here = _first(params_K, active)
            size = wb.sum(1)
            seen_K[:active] += size
            if fused is not None:
                ball = _first(state_K["velocity"], active) if "velocity" in state_K else None
                total_K[:active] += fused(here, ball, xb, yb, wb, place.lr, self._momentum or 0.0) * size
                continue
            grads, loss = self._gradients(here, xb, yb, wb)
            total_K[:active] += loss.detach() * size
            state = {slot: _first(tree, active) for slot, tree in state_K.items()}
            if local.direction is not None:

                def at(point: Tree, xb: Tensor = xb, yb: Tensor = yb, wb: Tensor = wb) -> Tree:
                    found: Tree = self._gradients(point, xb, yb, wb)[0]
                    return found

                grads = local.direction(grads, here, _first_of(place, active, at))
            updates, state = local.rule.update(grads, state, here)
            for name, update in updates.items():
                here[name].add_(update)
            state_K = state if active == len(clients) else _replace_first(state_K, state, active)
        if fused is not None and "step" in state_K:
            state_K = state_K | {"step": {"count": state_K["step"]["count"] + torch.from_numpy(steps)}}
        self._collect(collector, clients, counts, params_K, state_K, place, steps, total_K / seen_K, local)

    def gradients(self, task: BlockTask, records: Records, examples: Examples) -> Collector:
        """Give the gradient of every client's whole loss at the global model."""
        collector = Collector(reduce=task.reduce, uniform=task.uniform)
        counts = {client: examples.count(client) for client in task.clients}
        for client in task.clients:
            if counts[client] == 0:
                collector.fail(client, "has no training examples")
        clients = [client for client in task.clients if counts[client]]
        if not clients:
            return collector
        point = _broadcast({name: records[ARRAYS][name] for name in self.network.params}, len(clients))
        found = {GRADIENT: self._full_gradients(point, clients, examples)}
        collector.add_stacked(clients, found, [counts[c] for c in clients], [{} for _ in clients])
        return collector

    def _full_gradients(self, point_K: Tree, clients: list[int], examples: Examples) -> Tree:
        """Give the gradients of the mean losses over all training examples of each client."""
        x, y, rows = examples.block(clients, [np.arange(examples.count(c))[None] for c in clients])
        table_KN = torch.from_numpy(_pad(rows)[0]).to(x.device)
        weights_KN = (table_KN >= 0).to(x.dtype if x.is_floating_point() else torch.float32)
        count_K = weights_KN.sum(1)
        total_K = {name: torch.zeros_like(t) for name, t in point_K.items()}
        for begin in range(0, table_KN.shape[1], FULL_BATCH):
            chosen, weight = (t[:, begin : begin + FULL_BATCH] for t in (table_KN, weights_KN))
            share_K = weight.sum(1) / count_K
            flat = chosen.clamp(min=0).reshape(-1)
            xb = x.index_select(0, flat).view(*chosen.shape, *x.shape[1:])
            yb = y.index_select(0, flat).view(*chosen.shape, *y.shape[1:])
            used = torch.where(share_K[:, None] > 0, weight, 1.0)  # a client that has no more counts 0 all the same
            grads_K, _ = self._gradients(point_K, xb, yb, used)
            for name, g in grads_K.items():
                total_K[name].addcmul_(g, share_K.reshape(-1, *(1,) * (g.ndim - 1)))
        return total_K

    def _recall(self, memory: Mapping[int, State], clients: list[int], local: LocalUpdate, anchor: Tree) -> State:
        """Stack what the clients kept; one that kept nothing begins as a client that never took part."""
        fresh: State = {_RULE + slot: tree for slot, tree in local.rule.init(anchor).items()}
        if local.remember is not None:
            fresh = fresh | local.remember(anchor)
        if not memory:
            return {slot: expand(tree, len(clients)) for slot, tree in fresh.items()}
        return {slot: stack([memory.get(c, {}).get(slot, tree) for c in clients]) for slot, tree in fresh.items()}

    def _collect(
        self,
        collector: Collector,
        clients: list[int],
        counts: Mapping[int, int],
        params_K: Tree,
        state_K: State,
        place: Place,
        steps: np.ndarray,
        loss_K: Tensor,
        local: LocalUpdate,
    ) -> None:
        records: Records = {ARRAYS: params_K}
        kept_K: State = {}
        if local.finish is not None:
            sent, kept_K = local.finish(params_K, state_K, place)
            records = sent if local.compressed else sent | {ARRAYS: records[ARRAYS] | sent.get(ARRAYS, {})}
        if self.spec.keep_state:
            kept_K = kept_K | {_RULE + slot: tree for slot, tree in state_K.items()}
        slots = {slot: unstack(tree) for slot, tree in kept_K.items()}
        memories = [
            {slot: {n: t.clone() for n, t in trees[k].items()} for slot, trees in slots.items()}
            for k in range(len(clients))
        ]
        numbers = loss_K.tolist()
        metrics = [{"train_loss": numbers[k], "steps": float(steps[k]), "lr": place.lr} for k in range(len(clients))]
        collector.add_stacked(clients, records, [counts[c] for c in clients], metrics, memories)


def _first(tree: Mapping[str, Tensor], active: int) -> Tree:
    return {name: x[:active] for name, x in tree.items()}


def _broadcast(tree: Mapping[str, Tensor], size: int) -> Tree:
    """Give a tree seen by each of ``size`` clients, without a copy."""
    return {name: x.expand(size, *x.shape) for name, x in tree.items()}


def _first_of(place: Place, active: int, gradient: Callable[[Tree], Tree]) -> Place:
    """Give the place of the clients that are still at work."""
    assert isinstance(place.steps, Tensor) and isinstance(place.key, Tensor) and isinstance(place.examples, Tensor)
    return replace(
        place,
        anchor=_first(place.anchor, active),
        shared={record: _first(tree, active) for record, tree in place.shared.items()},
        memory={slot: _first(tree, active) for slot, tree in place.memory.items()},
        gradient=gradient,
        steps=place.steps[:active],
        full_gradient=None if place.full_gradient is None else _first(place.full_gradient, active),
        key=place.key[:active],
        examples=place.examples[:active],
    )


def _replace_first(old: State, new: State, active: int) -> State:
    return {slot: {n: torch.cat([new[slot][n], x[active:]]) for n, x in tree.items()} for slot, tree in old.items()}


def _pad(rows: list[np.ndarray]) -> np.ndarray:
    """Give ``[steps, K, batch]`` with -1 wherever a client has no example."""
    shape = (max(len(r) for r in rows), len(rows), max(r.shape[1] for r in rows))
    table = np.full(shape, -1, dtype=np.int64)
    for k, r in enumerate(rows):
        table[: r.shape[0], k, : r.shape[1]] = r
    return table
