"""A worker: it holds the data and a network, and turns blocks of clients into results. Knows neither Flower nor Ray."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedmomentum.clients.block import Arrays, BlockResult, BlockTask
from fedmomentum.clients.central import CentralTask, test_centrally
from fedmomentum.clients.collect import Collector, Records, moved, to_records
from fedmomentum.clients.compiled import check
from fedmomentum.clients.evaluate import evaluate
from fedmomentum.clients.examples import Examples
from fedmomentum.clients.fold import LARGE, Bundle, fold, model_bytes
from fedmomentum.clients.library import check as check_native
from fedmomentum.clients.local import LocalUpdate
from fedmomentum.clients.looped import NORM, LoopedTrainer
from fedmomentum.clients.methods import make_local
from fedmomentum.clients.network import Network
from fedmomentum.clients.precision import adopt
from fedmomentum.clients.rules import make_client_rule
from fedmomentum.clients.shelf import Shelf
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.clients.stacked import StackedTrainer
from fedmomentum.clients.vectorize import choose
from fedmomentum.data import FederatedData
from fedmomentum.data.client_order import ALIGNMENT
from fedmomentum.events import Span
from fedmomentum.heap import give_back, keep
from fedmomentum.optim import Rule, chain, clip_by_norm
from fedmomentum.protocol import ARRAYS
from fedmomentum.trees import Tree, same_layout

if TYPE_CHECKING:
    from fedmomentum.clients.probing import Prober

log = logging.getLogger("fedmomentum.clients")


class Worker:
    """Trains and evaluates blocks of clients; its results depend on the task and the model alone."""

    def __init__(self, spec: ClientSpec, data: FederatedData) -> None:
        """Build the network once; it is reused by every client and round."""
        torch.set_num_threads(spec.threads)
        adopt(spec.precision, spec.device)
        self.spec = spec
        self.network = Network(spec.model, spec.device)
        self.examples = Examples(data, spec.device)
        self.stacked, self.reason = choose(self.network.module, spec.vectorize, spec.device, spec.compile)
        check(spec.compile, self.network.module, spec.device)
        check_native(wanted=spec.native)
        self._shelf = Shelf()
        self._loop = LoopedTrainer(spec, self.network, self._local, self._shelf)
        self._stack = (
            StackedTrainer(spec, self.network, self._local, self.examples, self._shelf) if self.stacked else None
        )
        self._prober = self._make_prober()

    def _make_prober(self) -> Prober | None:
        """Give what measures beside the training; None, at no cost, where nothing is to be measured."""
        if self.spec.adapt is None and not self.spec.measure.probes:
            return None
        from fedmomentum.clients.adaptive import check_adapt
        from fedmomentum.clients.probing import Prober

        check_adapt(self.spec)
        return Prober(self.spec, self.network, self._loop)

    def _local(self, factor: float) -> LocalUpdate:
        hyper = {k: v for k, v in self.spec.optimizer.items() if k != "name"}
        if self.spec.adapt is not None:
            return self._adapted(hyper, factor)
        hyper["lr"] = hyper["lr"] * factor
        return self._half(make_client_rule(self.spec.optimizer["name"], **hyper))

    def _adapted(self, hyper: Mapping[str, Any], factor: float) -> LocalUpdate:
        from fedmomentum.clients.adaptive import adapted, adaptive_rule

        return adapted(self._half(adaptive_rule(self.spec.optimizer["name"], hyper, factor)))

    def _half(self, rule: Rule) -> LocalUpdate:
        if self.spec.clip_norm is not None:
            rule = chain(clip_by_norm(self.spec.clip_norm), rule)
        return make_local(self.spec.method, rule, **self.spec.method_options)

    def test(self, task: CentralTask, records: Mapping[str, Arrays]) -> tuple[dict[str, float], Span]:
        """Give loss and accuracy of a model on the central test set, and when and how long it was tested."""
        clock, began = time.time(), time.perf_counter()
        found = test_centrally(task, records, self.network, self.examples.data)
        if model_bytes(records[ARRAYS]) >= LARGE:
            self._release()
        return found, self._span("evaluate", clock, time.perf_counter() - began, 0)

    @staticmethod
    def _span(name: str, clock: float, seconds: float, clients: int) -> Span:
        return Span(name, clock, seconds, socket.gethostname(), os.getpid(), clients)

    def run(self, task: BlockTask | Bundle, records: Mapping[str, Arrays]) -> BlockResult | None:
        """Train or evaluate a block or give its full gradients; ``arrays`` is the model among the records of the round.

        A bundle of blocks is folded into one result; None where there is no block in it.

        Raises:
            KeyError, ValueError: the model of the round is not of the layout of the worker's network.
        """
        if isinstance(task, Bundle):

            def result(leaf: BlockTask | None) -> BlockResult | None:
                return None if leaf is None else self._block(leaf, records)

            keep()
            try:
                return fold(task.leaves, result, self._shelf)
            finally:
                self._release()
        return self._block(task, records)

    def ahead(self) -> None:
        """Prepare for the next round while its model is not there; no result depends on it."""
        if self._stack is not None:
            self._stack.ahead()

    def _release(self) -> None:
        """Hold nothing of a large model until the next one comes."""
        self.network.release()
        self._loop.release()
        self._shelf.clear()
        give_back()

    def _only_copied(self) -> bool:
        """Say whether training computes nothing with the model of a round that is not element by element."""
        local = self._local(1.0)
        simple = local.direction is None or local.by_tensor
        return self._stack is None and self._prober is None and simple and not local.full_gradient

    def _start(self, task: BlockTask, given: Tree) -> Tree:
        """Give the model that the block starts from, in the dtypes and the memory layout of the network.

        The network holds it too, unless nobody looks there: stacked clients have weights of their own, and those of a
        large model begin by copying it, which makes one more copy a pass over it.
        """
        copied = task.fold and task.kind == "train" and self._only_copied()
        stacked = self._stack is not None and task.kind == "train" and self._prober is None
        kept = _same_numbers if copied else _as_it_is
        own = self.network.tree()
        unseen = copied or (stacked and not self.network.released)
        if unseen and given.keys() == own.keys() and all(kept(given[name], x) for name, x in own.items()):
            same_layout(given, own)
            return {name: given[name] for name in own}
        self.network.load(given)
        return {name: given[name] if kept(given[name], x) else x.clone() for name, x in own.items()}

    def _block(self, task: BlockTask, records: Mapping[str, Arrays]) -> BlockResult:
        clock, began = time.time(), time.perf_counter()
        trees = to_records(records, self.spec.device)
        trees[ARRAYS] = self._start(task, trees[ARRAYS])
        if self.spec.device != "cpu":
            memory = {c: moved(state, self.spec.device) for c, state in task.memory.items()}
            task = replace(task, memory=memory)
        collector = self._evaluate(task) if task.kind == "evaluate" else self._train(task, trees)
        for param in self.network.params.values():
            param.grad = None  # it is as large as the model
        del trees
        result = collector.result(task.index)
        seconds = time.perf_counter() - began
        return replace(result, seconds=seconds, spans=(self._span(task.kind, clock, seconds, len(task.clients)),))

    def _train(self, task: BlockTask, trees: Records) -> Collector:
        if self._stack is not None:
            try:
                return self._work(self._stack, task, trees)
            except Exception as error:  # one client at a time, the loop finds out whose failure it is
                log.warning("round %d: stacked training failed (%s); going on one by one", task.round, error)
        return self._work(self._loop, task, trees)

    def _work(self, trainer: StackedTrainer | LoopedTrainer, task: BlockTask, trees: Records) -> Collector:
        if task.kind == "gradient":
            return trainer.gradients(task, trees, self.examples)
        schedule = self.spec.lr_schedule
        factor = 1.0 if schedule is None else float(schedule(task.round - 1))
        if self._prober is not None and self._prober.wanted(task):
            return self._prober.train(trainer, task, trees, self.examples, factor)
        return trainer.train(task, trees, self.examples, factor)

    def _evaluate(self, task: BlockTask) -> Collector:
        collector = Collector(reduce=True)
        model = {name: tensor.clone() for name, tensor in self.network.tree().items()}
        for client in task.clients:
            try:
                x, y = self.examples.validation(client)
                if own := task.memory.get(client, {}).get(NORM):
                    self.network.copy(model | own)
                collector.note(client, len(y), evaluate(self.network, x, y))
            except Exception as error:  # as in training: a failure belongs to its client
                collector.fail(client, f"{type(error).__name__}: {error}")
            self.network.copy(model)
        return collector


def _same_numbers(given: Tensor, own: Tensor) -> bool:
    """Say whether a tensor of the round is what the network holds, wherever and in whatever order it lies."""
    return given.dtype == own.dtype and given.device == own.device


def _as_it_is(given: Tensor, own: Tensor) -> bool:
    """Say whether a tensor of the round can be computed with where it lies.

    Matrix products round otherwise in memory that is not aligned as torch aligns its own, and where a record lies
    depends on how it came: the bits of a client must not.
    """
    return given.dtype == own.dtype and own.is_contiguous() and given.data_ptr() % ALIGNMENT == 0
