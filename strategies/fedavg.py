"""Federated averaging, and the round that every strategy here has from it: cohort, admission, quorum, saved state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from logging import INFO, WARNING
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.exception import AggregationError
from flwr.serverapp.strategy import Result
from flwr.supercore import log
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum import protocol
from fedmomentum.events import Failure
from fedmomentum.strategies import records
from fedmomentum.strategies.admission import Expected, Reply, admit, log_admission, silent
from fedmomentum.strategies.aggregation import weighted_mean
from fedmomentum.strategies.agreement import DRIFT, agreement
from fedmomentum.strategies.broadcast import Broadcast
from fedmomentum.strategies.cohort import UniformCohort
from fedmomentum.strategies.nodes import choose, wait_for_nodes
from fedmomentum.strategies.privacy import probability
from fedmomentum.strategies.reports import Reports, added_up, column_of, mean_metrics, weights_of
from fedmomentum.strategies.robust import TooFewError, combined
from fedmomentum.strategies.settings import MetricsFn, Settings
from fedmomentum.streams import stream
from fedmomentum.trees import Tree, cast_like, same_layout


@dataclass(eq=False, repr=False)
class FedAvg(Settings):
    """Federated averaging: ``x <- sum_i (w_i / sum_j w_j) x_i``. arXiv:1602.05629.

    It takes the :class:`~fedmomentum.strategies.settings.Settings`, as every strategy of this package does.

    One reply at a time is admitted or refused (see :func:`~fedmomentum.strategies.admission.admit`); refused clients
    are named in one warning and in ``rejected``, and the round goes on. Buffers (batch-norm statistics, counters) are
    averaged and never pass through a server optimizer. Every tensor keeps the dtype of the global model.

    Rounds count upwards. A ``configure_train`` whose round does not come after the last one finished begins a new
    run: server state is reset, unless ``load_state_dict`` was just called; then it is the next round of the saved run.

    Attributes:
        rejected: clients of the last ``aggregate_train`` whose replies were not used, or never came, and why.
        accepted: clients whose replies were used in it; a block counts each of its members.
        round: the last round that was aggregated; 0 before the first.
        population: nodes that were connected when the last cohort was chosen.

    Raises:
        ValueError: a setting is out of range, or does not go with another one or with the algorithm.
    """

    def __post_init__(self) -> None:
        """Check the settings; there was no round yet."""
        super().__post_init__()
        self._drives = False
        self.rejected: list[Failure] = []
        self.accepted = 0
        self.round = 0
        self.population = 0
        self._offset = 0
        self._resumed = False
        self._asked: Sequence[int] = []
        self._sent: records.Views | None = None
        self._old: Mapping[str, Tensor] = {}
        self._extras: dict[str, records.Views] = {}
        self._reports: list[Reports] = []

    def client_mean(self, *names: str) -> float:
        """Give the mean over the clients of the round of a metric of theirs, weighted as their models are.

        Args:
            names: of a metric in ``needs_metrics``, or of several, whose product is averaged.
        """
        weights = self._weights()
        product = np.ones_like(weights)
        for name in names:
            column = column_of(self._reports, name)
            if column is None:
                raise KeyError(f"metric '{name}' is not reported by every client; name it in needs_metrics")
            product = product * column
        return float(added_up(weights * product) / added_up(weights))

    def _weights(self) -> NDArray[np.float64]:
        """Give the weight of each client of the round."""
        return weights_of(self._reports, uniform=self._uniform)

    def start(self, *args: Any, **kwargs: Any) -> Result:
        """Run all rounds as Flower's own ``start`` does; see there for the arguments."""
        self._drives = True
        try:
            return super().start(*args, **kwargs)
        finally:
            self._drives = False

    def reset(self) -> None:
        """Forget every round: a new run begins."""
        self.round = 0
        self.rejected, self.accepted = [], 0
        self._offset = 0

    # ---- saved state ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Give all state that a later round depends on, to be taken between two rounds.

        The global model itself is not in it: the caller holds it, and hands it to the next ``configure_train``.
        """
        return {"strategy": type(self).__name__, "round": self.round, "server": self.server_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken: the rounds that follow are those of a run never stopped.

        Raises:
            ValueError: the state is another strategy's.
        """
        if state["strategy"] != type(self).__name__:
            raise ValueError(f"this is the state of a {state['strategy']}, not of a {type(self).__name__}")
        self.reset()
        self.round = int(state["round"])
        self.load_server_state(state["server"])
        self._resumed = True

    # ---- a round -------------------------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Choose the cohort and make its messages, which share one RecordDict; the caller's config is not changed.

        Raises:
            TimeoutError: too few nodes connected within ``node_timeout`` seconds.
            ValueError: the cohort chose a node twice or one that is not connected, or the model lacks a buffer
                that was named, or holds a tensor that is not of real numbers.
        """
        now = self._begin(server_round)
        self._sent, self._asked = records.views(arrays), []
        if self.buffers is not None and (unknown := sorted(set(self.buffers).difference(self._sent))):
            raise ValueError(f"buffers names '{unknown[0]}', which is not in the model")
        self._old = records.tree({name: x for name, x in self._sent.items() if not self._is_buffer(name, x)})
        expected = self.extra_in_replies(self._old)
        self._extras = {name: {key: x.numpy() for key, x in extra.items()} for name, extra in expected.items()}
        cohort, needed = self.cohort, self.min_available_nodes
        if cohort is None:
            if self.fraction_train == 0.0:
                return []
            cohort = UniformCohort(fraction=self.fraction_train, minimum=self.min_train_nodes, seed=self.seed)
            needed = max(needed, self.min_train_nodes)
        nodes = wait_for_nodes(grid, needed, self.node_timeout)
        self.population, self._asked = len(nodes), choose(cohort, now, nodes)

        told = {**dict(config.items()), protocol.SERVER_ROUND: now, protocol.REDUCTION: self._reduction(config)}
        if self.buffers is not None:
            told[protocol.BUFFERS] = "\n".join(sorted(self.buffers))
        if self.weighting == protocol.UNIFORM:
            told[protocol.WEIGHTING] = protocol.UNIFORM
        extras = {name: records.record(extra) for name, extra in self.extra_to_clients(self._old).items()}
        config = records.filled(ConfigRecord(), told)
        content = records.filled(RecordDict(), {**extras, self.arrayrecord_key: arrays, self.configrecord_key: config})
        return Broadcast(content, self._asked, MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Admit the replies, average them and take the server's step; None for the arrays keeps the old model.

        Raises:
            AggregationError: the quorum was missed and ``on_missed_quorum`` is ``stop``, or ``configure_train`` was not
                called before.
        """
        sent = self._sent
        if sent is None:
            raise AggregationError(
                "configure_train has to come first: it keeps the arrays that replies are held against"
            )
        expected = Expected(
            self.weighted_by_key,
            self.reply_layout(sent),
            self.arrayrecord_key,
            self._extras,
            self.needs_metrics,
            self.max_update_norm,
            frozenset(self._old),
        )
        admitted, self.rejected = admit(replies, expected)
        self.rejected += silent(self._asked, admitted, self.rejected)
        self.accepted = sum(len(reply.clients) for reply in admitted)
        now = server_round + self._offset
        if self._drives or self.rejected:  # a round loop of ours tells of rounds in its own way
            log_admission(f"round {now}", self.accepted, self.rejected)

        enough = self._quorate(now)
        self.round = now
        if not enough:
            return None, None
        metrics = self._metrics(admitted, self.train_metrics_aggr_fn)
        weights = [float(len(reply.clients)) if self._uniform else reply.weight for reply in admitted]
        self._reports = [reply.reports for reply in admitted]
        models = [self.decoded(reply.arrays, sent) for reply in admitted]
        if self.privacy is not None:
            mean = self._private(models, sent, now)
            metrics["epsilon"] = self.privacy.epsilon(probability=probability(self.cohort), rounds=now)
            metrics["delta"] = self.privacy.delta
        elif not 0.0 < sum(weights) < math.inf:
            log(WARNING, "round %d: the weights sum to %s; the old model is kept", now, sum(weights))
            return None, metrics
        else:
            try:
                mean = combined(
                    models,
                    weights,
                    sent,
                    self._old,
                    aggregator=self.aggregator,
                    clip_update=self.clip_update,
                    accumulation=self.accumulation,
                )
            except TooFewError as error:
                log(WARNING, "round %d: %s; the old model is kept", now, error)
                return None, metrics
        if self.sends_models and not self._robust:
            metrics.update(self._agreement(mean))
        made = admitted[0].record if len(admitted) == 1 else {}
        return records.record({**mean, **self._step(mean, admitted, weights)}, made), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Choose who evaluates and make the messages; the caller's config is not changed.

        Raises:
            TimeoutError: too few nodes connected within ``node_timeout`` seconds.
        """
        if self.fraction_evaluate == 0.0:
            return []
        now = server_round + self._offset
        cohort = UniformCohort(
            fraction=self.fraction_evaluate, minimum=self.min_evaluate_nodes, seed=self.seed, stream="evaluate-cohort"
        )
        nodes = wait_for_nodes(grid, max(self.min_available_nodes, self.min_evaluate_nodes), self.node_timeout)
        filled = ConfigRecord({**config, protocol.SERVER_ROUND: now})
        content = RecordDict({self.arrayrecord_key: self.evaluated(arrays), self.configrecord_key: filled})
        return Broadcast(content, choose(cohort, now, nodes), MessageType.EVALUATE)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Admit the replies and average their metrics; None where there is none."""
        admitted, rejected = admit(replies, Expected(self.weighted_by_key))
        if rejected:
            now = server_round + self._offset
            log_admission(f"round {now}, evaluation", sum(len(reply.clients) for reply in admitted), rejected)
        return self._metrics(admitted, self.evaluate_metrics_aggr_fn) if admitted else None

    # ---- steps of a round ----------------------------------------------------------------------------------------

    def _begin(self, server_round: int) -> int:
        """Give the number of the round in the run; Flower's ``start`` counts from 1 whatever came before."""
        if server_round + self._offset <= self.round:
            if self._resumed:
                self._offset = self.round
            else:
                log(INFO, "round %d after round %d: a new run, with fresh server state", server_round, self.round)
                self.reset()
        self._resumed = False
        return server_round + self._offset

    def _reduction(self, config: Mapping[str, object]) -> str:
        """Ask for single replies where the mean over a block would be another mean than the one wanted."""
        alone = self._robust or self.single_replies or self.max_update_norm is not None
        if alone or (self.extra_weighting == "uniform" and self._extras):
            return protocol.EVERY
        if protocol.REDUCTION in config:
            return str(config[protocol.REDUCTION])
        if self.reduction == "auto":
            return protocol.MEAN if self._drives else protocol.EVERY
        return self.reduction

    def _quorate(self, now: int) -> bool:
        if isinstance(self.quorum, float):
            needed = max(1, math.ceil(self.quorum * len(self._asked) - 1e-9))
        else:
            needed = self.quorum or 1
        if self.accepted >= needed or self.privacy is not None:
            return True
        if not self._asked and not self.accepted:
            return False
        text = f"round {now}: {self.accepted} of {len(self._asked)} replies are good, {needed} are needed"
        if self.quorum is not None and self.on_missed_quorum == "stop":
            raise AggregationError(text)
        log(WARNING, "%s; the old model is kept", text)
        return False

    def _metrics(self, admitted: Sequence[Reply], custom: MetricsFn | None) -> MetricRecord:
        if custom is not None and admitted:
            contents = [content for reply in admitted for content in reply.contents(self.weighted_by_key)]
            return custom(contents, self.weighted_by_key)
        return mean_metrics([reply.reports for reply in admitted], leave_out=self.weighted_by_key)

    def _agreement(self, mean: records.Views) -> dict[str, float]:
        lengths = column_of(self._reports, DRIFT)
        if lengths is None:
            return {}
        weights = self._weights().tolist()
        return agreement(*self._widened(mean), lengths.tolist(), weights, population=self.population)

    def _step(self, mean: records.Views, admitted: Sequence[Reply], weights: Sequence[float]) -> Tree:
        """Give the parameters after the server's step; none where the algorithm takes the mean as it is."""
        if type(self).server_update is Settings.server_update and self.step_schedule is None:
            return {}
        old, means = self._widened(mean)
        new = self.server_update(old, means, self._mean_extras(admitted, weights))
        same_layout(new, old)
        if self.step_schedule is not None:
            factor = self.step_schedule(self.round - 1)
            new = {name: x + factor * (new[name] - x) for name, x in old.items()}
        return {name: cast_like(new[name], x) for name, x in self._old.items()}

    def _widened(self, mean: records.Views) -> tuple[Tree, Tree]:
        """Give the old parameters and their mean in float32 at the least: squares of small steps vanish in float16."""
        trees = self._old, records.shared({name: mean[name] for name in self._old})
        old, means = ({n: x.float() if x.element_size() < 4 else x for n, x in tree.items()} for tree in trees)
        return old, means

    def _private(self, models: Sequence[records.Views], sent: records.Views, now: int) -> records.Views:
        assert self.privacy is not None
        expected = probability(self.cohort) * self.population
        rng = stream(self.seed, "privacy", round=now)
        return self.privacy.mean(models, sent, list(self._old), expected=expected, rng=rng)

    def _mean_extras(self, admitted: Sequence[Reply], weights: Sequence[float]) -> dict[str, Tree]:
        if self.extra_weighting == "uniform":
            weights = [len(reply.clients) for reply in admitted]
        out: dict[str, Tree] = {}
        for name, layout in admitted[0].extras.items() if admitted else ():
            mean = weighted_mean([reply.extras[name] for reply in admitted], weights, layout)
            out[name] = {key: torch.from_numpy(x) for key, x in mean.items()}
        return out
