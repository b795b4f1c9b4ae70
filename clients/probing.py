"""Measurements beside local training: what each client's loss, steps and drift are like, as columns of its metrics.

Training is left as it is, to the bit: curvature is measured where the client starts, and its steps are watched (one
client after another) or walked once more (stacked). Every measurement depends on the seed, the model and the client
alone, so it has the same bits in any block, on any worker.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace

import torch

from fedmomentum.analogies import linear, spring
from fedmomentum.clients.adaptive import HYPER, chosen, hyper_memory
from fedmomentum.clients.block import BlockTask
from fedmomentum.clients.collect import Collector, Records
from fedmomentum.clients.curvature import client_bend, felt, sample_of
from fedmomentum.clients.examples import Examples
from fedmomentum.clients.looped import NORM, LoopedTrainer
from fedmomentum.clients.measuring import FORM_OF, PATH, PREFIX, SPECTRAL
from fedmomentum.clients.network import Network
from fedmomentum.clients.path import Path, Watch, readings
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.clients.stacked import StackedTrainer
from fedmomentum.protocol import ARRAYS
from fedmomentum.trees import State, Tree

log = logging.getLogger("fedmomentum.clients")

LONGEST = 1e4
"""Steps of a period above which a spring counts as critical: rounding alone can make it ring for ever."""

KEPT = "adapt"
"""Slot of a client's memory that holds the curvature it goes by until it is measured again."""
_RULE = "rule/"


class Prober:
    """Measures the clients of a block and trains them, by their own hyperparameters where these are adapted."""

    def __init__(self, spec: ClientSpec, network: Network, loop: LoopedTrainer) -> None:
        """Take what clients do, and the trainer that takes one after another: it can be watched."""
        self.spec, self.network, self.loop = spec, network, loop
        self._watch = Watch(network, spec.measure, spec.seed, spec.device) if spec.measure.wants(PATH) else None
        self._parameters = sum(p.numel() for p in network.params.values())

    def wanted(self, task: BlockTask) -> bool:
        """Tell whether there is anything to measure in this round."""
        return self.spec.adapt is not None or self.spec.measure.due(task.round)

    def train(
        self,
        trainer: StackedTrainer | LoopedTrainer,
        task: BlockTask,
        records: Records,
        examples: Examples,
        factor: float,
    ) -> Collector:
        """Measure, then train every client of the block as the trainer does; ``factor`` is that of the schedule."""
        due = self.spec.measure.due(task.round)
        clients = [client for client in task.clients if examples.count(client)]
        rows: dict[int, dict[str, float]] = {client: {} for client in clients}
        costs, seconds = dict.fromkeys(clients, 0.0), dict.fromkeys(clients, 0.0)
        rates: dict[int, tuple[float, float]] = {}
        memory: dict[int, State] = {client: dict(state) for client, state in task.memory.items()}
        kept: dict[int, Tree] = {}
        for client in clients:
            began = time.perf_counter()
            start = records[ARRAYS] | memory.get(client, {}).get(NORM, {})
            bend, costs[client] = self._curvature(task, client, start, memory.get(client, {}), examples, kept)
            rates[client] = self._rates(client, bend.get("curvature", math.nan), factor)
            if due and self.spec.measure.wants(SPECTRAL):
                rows[client] |= self._spectral(bend, *rates[client])
            if self.spec.adapt is not None:
                memory.setdefault(client, {})[_RULE + HYPER] = hyper_memory(self.spec, *rates[client])
            seconds[client] += time.perf_counter() - began
        for state in memory.values():
            state.pop(KEPT, None)
        task = replace(task, memory=memory)
        if due and self._watch is not None:
            collector = self._watched(trainer, task, records, examples, factor, costs, seconds)
            for client, path in self._watch.paths.items():
                if path.gradients or path.running or path.squared >= 0:
                    rows[client] |= self._path(path, examples.count(client), *rates[client])
        else:
            collector = trainer.train(task, records, examples, factor)
        self._report(collector, rows, costs, seconds, rates, kept, due)
        return collector

    # ---- at the model that the round starts from ------------------------------------------------------------------

    def _curvature(
        self,
        task: BlockTask,
        client: int,
        start: Tree,
        memory: Mapping[str, Tree],
        examples: Examples,
        kept: dict[int, Tree],
    ) -> tuple[dict[str, float], float]:
        """Give what is known of a client's curvature, measured now or kept from a round before, and what it cost."""
        adapt, measure = self.spec.adapt, self.spec.measure
        probed = measure.due(task.round) and measure.wants(SPECTRAL)
        old = memory.get(KEPT)
        if adapt is not None and old is not None and task.round - int(old["round"]) < adapt.every:
            kept[client] = old
            if not probed:
                return {"curvature": float(old["curvature"])}, 0.0
        if adapt is None and not probed:
            return {}, 0.0
        try:
            bend = client_bend(self.spec, self.network, start, client, examples)
        except FloatingPointError as error:
            log.warning("round %d, client %d: %s", task.round, client, error)
            return {"curvature": math.nan}, 0.0
        ritz = bend.ritz
        found = {
            "curvature": ritz.largest,
            "curvature_smallest": ritz.smallest,
            "curvature_error": float(ritz.bounds[-1]),
            "curvature_along": bend.along,
            "slope": bend.slope,
        }
        if adapt is not None and client in kept:  # it goes by what it kept, and reports what was measured
            return {**found, "curvature": float(kept[client]["curvature"])}, bend.cost
        if adapt is not None and adapt.every > 1:
            kept[client] = {
                "curvature": torch.tensor(ritz.largest, dtype=torch.float64),
                "round": torch.tensor(task.round),
            }
        return found, bend.cost

    def _rates(self, client: int, curvature: float, factor: float) -> tuple[float, float]:
        """Give a client's learning rate and momentum in this round."""
        hyper = self.spec.optimizer
        lr = float(hyper["lr"]) * factor
        momentum = float(hyper.get("momentum", 0.9 if hyper["name"] in ("heavy_ball", "ema", "nesterov") else 0.0))
        if self.spec.adapt is None:
            return lr, momentum
        safe, damped = chosen(self.spec.adapt, str(hyper["name"]), felt(self.spec, curvature), lr=lr, momentum=momentum)
        return (safe * factor if self.spec.adapt.lr else safe), damped

    def _spectral(self, bend: Mapping[str, float], lr: float, momentum: float) -> dict[str, float]:
        """Give the probes that read the spectrum, for a client's learning rate and momentum."""
        probes, row = self.spec.measure.probes, dict[str, float]()
        if "curvature" in probes:
            row |= {name: value for name, value in bend.items() if name != "slope"}
        form = FORM_OF.get(str(self.spec.optimizer["name"]))
        h = felt(self.spec, bend.get("curvature", math.nan))
        if form is not None:
            known = lr > 0 and math.isfinite(h) and h > 0
            if "damping" in probes:
                here = spring.predict(lr=lr, curvature=h, momentum=momentum, form=form) if known else None
                row["damping"] = here.damping_ratio if here else math.nan
                row["period"] = here.period if here and here.period < LONGEST else math.nan
                row["critical_momentum"] = here.critical_momentum if here else math.nan
            if "stability" in probes:
                limit = linear.stability_limit(form, momentum)
                row["stability"] = limit / (lr * h) if known else math.nan
                row["stable_lr"] = limit / h if known else math.nan
        return row

    # ---- along the client's steps ---------------------------------------------------------------------------------

    def _watched(
        self,
        trainer: StackedTrainer | LoopedTrainer,
        task: BlockTask,
        records: Records,
        examples: Examples,
        factor: float,
        costs: dict[int, float],
        seconds: dict[int, float],
    ) -> Collector:
        """Train the block and follow the steps of each client."""
        watch = self._watch
        assert watch is not None
        most = min(self.spec.measure.examples, 512)
        normed = "batch_norm" in self.spec.measure.probes
        samples = {c: sample_of(examples, c, most, self.spec.seed)[0] for c in costs} if normed else {}
        watch.begin(records[ARRAYS], {c: x for c, x in samples.items() if len(x) > 1})
        self.loop.watch = watch
        try:
            if trainer is self.loop:
                return trainer.train(task, records, examples, factor)
            for client in costs:
                began = time.perf_counter()
                alone = replace(
                    task,
                    clients=(client,),
                    effort=(task.effort[task.clients.index(client)],) if task.effort else None,
                )
                walked = self.loop.train(alone, records, examples, factor)
                steps = walked.members.get("steps", [0.0])[0]
                costs[client] += steps * min(self.spec.batch_size or math.inf, examples.count(client))
                seconds[client] += time.perf_counter() - began
        finally:
            self.loop.watch = None
        return trainer.train(task, records, examples, factor)

    def _path(self, path: Path, count: int, lr: float, momentum: float) -> dict[str, float]:
        return readings(
            path,
            self.spec.measure,
            lr=lr,
            momentum=momentum,
            form=FORM_OF.get(str(self.spec.optimizer["name"])),
            parameters=self._parameters,
            batch=min(self.spec.batch_size or count, count),
        )

    # ---- into the reply -------------------------------------------------------------------------------------------

    def _report(
        self,
        collector: Collector,
        rows: Mapping[int, Mapping[str, float]],
        costs: Mapping[int, float],
        seconds: Mapping[int, float],
        rates: Mapping[int, tuple[float, float]],
        kept: Mapping[int, Tree],
        due: bool,
    ) -> None:
        """Put the measurements into the table of the clients whose work counts."""
        accepted = [int(client) for client in collector.members["client"]]
        columns = list(dict.fromkeys(name for row in rows.values() for name in row))
        for name in columns:
            collector.members[PREFIX + name] = [rows[client].get(name, math.nan) for client in accepted]
        adapt, paths = self.spec.adapt, self._watch.paths if due and self._watch is not None else {}
        if due or adapt is not None:
            followed = {client: path.cost for client, path in paths.items()}
            collector.members[PREFIX + "gradients"] = [costs[c] + followed.get(c, 0.0) for c in accepted]
            collector.members[PREFIX + "seconds"] = [seconds[client] for client in accepted]
        if adapt is not None:
            collector.members["lr"] = [rates[client][0] for client in accepted]
            if "momentum" in self.spec.optimizer:
                collector.members["momentum"] = [rates[client][1] for client in accepted]
            for client in accepted:
                if client in kept:
                    collector.memory[client] = {**collector.memory.get(client, {}), KEPT: kept[client]}
