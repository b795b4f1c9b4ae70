"""Local training of a block with its clients stacked on a leading axis: each operation serves all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from fedmomentum.clients.batches import StackedPlan
from fedmomentum.clients.block import BlockTask
from fedmomentum.clients.collect import Collector, Records
from fedmomentum.clients.dense import Gradients, Layer, dense_gradients, goal, momentum_step, read_layers
from fedmomentum.clients.dual import dual
from fedmomentum.clients.examples import Examples
from fedmomentum.clients.fused import HeavyBall, heavy_ball
from fedmomentum.clients.groups import Group, Groups, Stage
from fedmomentum.clients.local import Drift, LocalUpdate, Place
from fedmomentum.clients.looped import FULL_BATCH
from fedmomentum.clients.native import Batches, Step, native
from fedmomentum.clients.network import Network
from fedmomentum.clients.precision import layers, wide
from fedmomentum.clients.rules import own_noise
from fedmomentum.clients.shelf import Shelf
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.models.objective import losses
from fedmomentum.protocol import ARRAYS, GRADIENT
from fedmomentum.streams import key
from fedmomentum.trees import State, Tree, expand, stack, unstack

_RULE = "rule/"


class StackedTrainer:
    """Trains the clients of a block at once by ``torch.func.vmap``; equal to the loop to float tolerance."""

    def __init__(
        self,
        spec: ClientSpec,
        network: Network,
        make_local: Callable[[float], LocalUpdate],
        examples: Examples,
        shelf: Shelf | None = None,
    ) -> None:
        """Bind to a network without buffers; see :class:`~fedmomentum.clients.looped.LoopedTrainer`."""
        self.spec, self.network, self.make_local, self.shelf = spec, network, make_local, shelf
        self._lr = float(spec.optimizer["lr"])
        self._gradients: Gradients = dense_gradients(network.module) or vmap(grad_and_value(self._loss))
        self._ball = heavy_ball(spec)
        dense = read_layers(network.module) if self._ball is not None else None
        self._layers = dense if self._ball is not None and self._ball.plain else None
        # the dual form writes out the gradient of the cross entropy
        self._dual = None if examples.data.numbers else dual(network.module, self._layers)
        size = sum(p.numel() * p.element_size() for p in network.params.values())
        in_c = native(spec, network.module, dense)
        self._native = in_c if in_c is not None and in_c.reads(examples.data.x, examples.data.y) else None
        self._groups = Groups(spec, examples, self._dual, self._native, size)
        self._classes = spec.model.classes
        self._local: tuple[float, LocalUpdate] | None = None

    def _loss(self, params: Tree, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        with layers(self.spec.precision, self.spec.device):
            outputs: Any = functional_call(self.network.module, params, (x,))
        return (losses(wide(outputs, self.spec.precision), y) * weight).sum() / weight.sum()

    def train(self, task: BlockTask, records: Records, examples: Examples, factor: float) -> Collector:
        """Train every client of the block from the same global model.

        Clients are ordered by their number of steps, so those still at work at any step are the first ones, and a
        client that is done costs nothing.
        """
        collector = Collector.of(task, records, self.shelf)
        local = self._local_of(factor)
        self._counts(task, collector)
        plain = local.direction is None and local.begin is None
        only_mean = plain and task.reduce and local.finish is None and not self.spec.keep_state
        for group, stage in self._groups.of(task, only_mean=only_mean):
            if isinstance(stage, Batches):
                done = self._in_c(group, stage, factor, records, collector)
            else:
                done = stage is not None and self._in_dual_form(group, stage, factor, records, collector)
            if not done:
                self._together(group, factor, task, records, examples, local, collector, fused=plain)
        return collector

    def ahead(self) -> None:
        """Prepare for the next round while its model is not there."""
        self._groups.ahead()

    def _local_of(self, factor: float) -> LocalUpdate:
        """Make a local update, or take the last one: most rounds have the factor of the round before."""
        if self._local is None or self._local[0] != factor:
            self._local = factor, self.make_local(factor)
        return self._local[1]

    def _counts(self, task: BlockTask, collector: Collector) -> Mapping[int, int]:
        """Give the training examples of clients that have some; the others fail."""
        counts = self._groups.counts(task.clients)
        for client in task.clients if len(counts) < len(task.clients) else ():
            if client not in counts:
                collector.fail(client, "has no training examples")
        return counts

    def _in_c(self, group: Group, batches: Batches, factor: float, records: Records, collector: Collector) -> bool:
        """Train clients by compiled code; False where one of them has numbers that are not finite."""
        assert self._ball is not None and self._native is not None
        lr = self._lr * factor
        end = self._native.mean(records[ARRAYS], batches, Step.of(self._ball, lr))
        if end is None:
            return False
        mean, loss_K = end
        metrics = _metrics(loss_K, [float(len(plan)) for plan in group.plans], lr)
        collector.add_stacked(group.clients, {ARRAYS: {}}, group.counts, metrics, means={ARRAYS: mean})
        return True

    def _in_dual_form(self, group: Group, stage: Stage, factor: float, records: Records, collector: Collector) -> bool:
        """Train clients with the first layer in dual form; False where one of them has numbers that are not finite."""
        assert self._ball is not None and self._dual is not None
        stacked, lr = stage.stacked, self._lr * factor
        end = self._dual.train(
            records[ARRAYS],
            stage.inner,
            stacked,
            stage.labels_SKB,
            stage.share_K,
            lr * self._ball.scale,
            self._ball.momentum,
            stretch=stage.stretch,
            steps=stage.steps,
        )
        if end is None:
            return False
        loss_K = end.loss_K / stacked.frame.seen_K
        metrics = _metrics(loss_K.tolist(), stacked.steps.astype(float).tolist(), lr)
        collector.add_stacked(group.clients, {ARRAYS: end.params_K}, group.counts, metrics, means={ARRAYS: end.mean})
        return True

    def _together(
        self,
        group: Group,
        factor: float,
        task: BlockTask,
        records: Records,
        examples: Examples,
        local: LocalUpdate,
        collector: Collector,
        *,
        fused: bool,
    ) -> None:
        """Train clients, in falling order of their steps, at once."""
        clients = group.clients
        x, y, rows = examples.block(clients, group.plans)
        stacked = StackedPlan.of(rows, x)
        anchor = {name: records[ARRAYS][name] for name in self.network.params}
        shared = {name: tree for name, tree in records.items() if name != ARRAYS}
        memory_K = self._recall(task.memory, clients, local, anchor)
        keys_K = torch.tensor([key(self.spec.seed, "noise", round=task.round, client=c) for c in clients])
        keys_K = keys_K.to(x.device)
        state_K: State = {s.removeprefix(_RULE): t for s, t in memory_K.items() if s.startswith(_RULE)}
        state_K = own_noise(state_K, keys_K)
        anchor_K = _broadcast(anchor, len(clients))
        shared_K = {record: _broadcast(tree, len(clients)) for record, tree in shared.items()}
        full_K = self._full_gradients(anchor_K, clients, examples) if local.full_gradient else None
        steps_K = torch.from_numpy(stacked.steps).to(x.device)
        place = Place(
            anchor_K,
            shared_K,
            memory_K,
            steps=steps_K,
            lr=self._lr * factor,
            full_gradient=full_K,
            key=keys_K,
            common_key=key(self.spec.seed, "noise", round=task.round),
            examples=torch.tensor([float(n) for n in group.counts], dtype=torch.float64, device=x.device),
            round=task.round,
        )
        found = self._each_in_c(anchor, state_K, x, y, rows, place, local)
        if found is not None:
            params_K, mean_K = found
        else:
            params_K = expand(anchor, len(clients))
            if local.begin is not None:
                first_K, state_K = local.begin(anchor_K, state_K, place)
                params_K = {name: x.clone() for name, x in first_K.items()}
            if fused and self._layers is not None and self._ball is not None:
                mean_K = self._fused(self._layers, self._ball, params_K, state_K, x, y, stacked, place.lr)
            else:
                mean_K, state_K = self._steps(params_K, state_K, x, y, stacked, place, local)
        self._collect(collector, group, params_K, state_K, place, stacked.steps, mean_K, local)

    def _each_in_c(
        self,
        anchor: Tree,
        state_K: State,
        x: Tensor,
        y: Tensor,
        rows: Sequence[NDArray[np.int64]],
        place: Place,
        local: LocalUpdate,
    ) -> tuple[Tree, list[float]] | None:
        """Take every step in compiled code; give where clients end, and their mean losses.

        None where that is not the fastest form, or there is none; else the state of their rule is as it ends.
        """
        if self._native is None or self._ball is None or not local.affine or not self._native.pays(rows[0].shape[1]):
            return None
        batches = Batches.of(x, y, np.zeros(len(rows), np.int64)).with_plans(rows)
        drift = Drift() if local.drift is None else local.drift(place)
        step = Step.of(self._ball, place.lr, drift)
        found = self._native.each(anchor, state_K.get("velocity"), drift.shift, batches, step)
        if found is not None:
            _count(state_K, [len(plan) for plan in rows])
        return found

    def _fused(
        self,
        layers: Sequence[Layer],
        ball: HeavyBall,
        params_K: Tree,
        state_K: State,
        x: Tensor,
        y: Tensor,
        stacked: StackedPlan,
        lr: float,
    ) -> list[float]:
        """Take every step of a dense network by a heavy ball, in place; give the mean losses."""
        loss_K = torch.zeros(len(stacked.steps), device=x.device)
        size_SK = stacked.weights_SKB.sum(2)
        goals = goal(y[stacked.rows_SKB], stacked.weights_SKB, self._classes)
        velocity_K = state_K.get("velocity")
        for step in range(int(stacked.steps[0])):
            active = stacked.active[step]
            chosen = stacked.rows_SKB[step, :active]
            xb = x.index_select(0, chosen.reshape(-1)).view(*chosen.shape, -1)
            here, v = _first(params_K, active), velocity_K and _first(velocity_K, active)
            lr_step = lr * ball.scale
            loss = momentum_step(layers, here, v, xb, goals.at(step, active), lr_step, ball.momentum)
            loss_K[:active].addcmul_(loss, size_SK[step, :active])
        _count(state_K, stacked.steps)
        mean_K: list[float] = (loss_K / stacked.frame.seen_K).tolist()
        return mean_K

    def _steps(
        self,
        params_K: Tree,
        state_K: State,
        x: Tensor,
        y: Tensor,
        stacked: StackedPlan,
        place: Place,
        local: LocalUpdate,
    ) -> tuple[list[float], State]:
        """Take every step by any rule and method, parameters in place; give the mean losses, and the state."""
        loss_K = torch.zeros(len(stacked.steps), device=x.device)
        for step in range(int(stacked.steps[0])):
            active = stacked.active[step]
            chosen = stacked.rows_SKB[step, :active]
            xb = x.index_select(0, chosen.reshape(-1)).view(*chosen.shape, *x.shape[1:])
            yb = y.index_select(0, chosen.reshape(-1)).view(*chosen.shape, *y.shape[1:])
            wb = stacked.weights_SKB[step, :active]
            here = _first(params_K, active)
            grads, loss = self._gradients(here, xb, yb, wb)
            loss_K[:active].addcmul_(loss.detach(), wb.sum(1))
            state = {slot: _first(tree, active) for slot, tree in state_K.items()}
            if local.direction is not None:

                def at(point: Tree, xb: Tensor = xb, yb: Tensor = yb, wb: Tensor = wb) -> Tree:
                    found: Tree = self._gradients(point, xb, yb, wb)[0]
                    return found

                grads = local.direction(grads, here, _first_of(place, active, at))
            updates, state = local.rule.update(grads, state, here)
            for name, update in updates.items():
                here[name].add_(update)
            state_K = state if active == len(stacked.steps) else _replace_first(state_K, state, active)
        mean_K: list[float] = (loss_K / stacked.frame.seen_K).tolist()
        return mean_K, state_K

    def gradients(self, task: BlockTask, records: Records, examples: Examples) -> Collector:
        """Give the gradient of every client's whole loss at the global model."""
        collector = Collector.of(task, records, self.shelf)
        counts = self._counts(task, collector)
        clients = list(counts)
        if not clients:
            return collector
        point = _broadcast({name: records[ARRAYS][name] for name in self.network.params}, len(clients))
        found = {GRADIENT: self._full_gradients(point, clients, examples)}
        collector.add_stacked(clients, found, [counts[c] for c in clients], {})
        return collector

    def _full_gradients(self, point_K: Tree, clients: list[int], examples: Examples) -> Tree:
        """Give the gradients of the mean losses over all training examples of each client."""
        x, y, rows = examples.block(clients, [np.arange(examples.count(c))[None] for c in clients])
        stacked = StackedPlan.of(rows, x)
        table_KN, weights_KN = stacked.rows_SKB[0], stacked.weights_SKB[0]
        count_K = weights_KN.sum(1)
        total_K = {name: torch.zeros_like(t) for name, t in point_K.items()}
        for begin in range(0, table_KN.shape[1], FULL_BATCH):
            chosen, weight = (t[:, begin : begin + FULL_BATCH] for t in (table_KN, weights_KN))
            share_K = weight.sum(1) / count_K
            flat = chosen.reshape(-1)
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
        group: Group,
        params_K: Tree,
        state_K: State,
        place: Place,
        steps: np.ndarray,
        loss_K: list[float],
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
            for k in range(len(group.clients) if slots else 0)
        ]
        metrics = _metrics(loss_K, steps.astype(float).tolist(), place.lr)
        collector.add_stacked(group.clients, records, group.counts, metrics, memories)


def _metrics(loss_K: list[float], steps_K: list[float], lr: float) -> dict[str, list[float]]:
    """Give what clients report, as columns."""
    return {"train_loss": loss_K, "steps": steps_K, "lr": [lr] * len(steps_K)}


def _count(state_K: State, steps: Sequence[int] | NDArray[np.int64]) -> None:
    """Count steps that a rule did not take itself."""
    if "step" in state_K:
        count = state_K["step"]["count"]
        state_K["step"] = {"count": count + torch.as_tensor(steps).to(count.device)}


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
