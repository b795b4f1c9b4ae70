"""Federated averaging, and what every strategy here has from it: cohort, admission, quorum, saved state."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from logging import INFO, WARNING
from typing import Any, Literal

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.exception import AggregationError
from flwr.serverapp.strategy import Result
from flwr.supercore import log
from numpy.typing import NDArray

from fedmomentum import protocol
from fedmomentum.events import Failure
from fedmomentum.strategies import records
from fedmomentum.strategies.admission import Expected, Reply, admit, log_admission, silent
from fedmomentum.strategies.aggregation import Accumulation, weighted_mean
from fedmomentum.strategies.agreement import DRIFT, agreement
from fedmomentum.strategies.broadcast import Broadcast
from fedmomentum.strategies.cohort import Cohort, UniformCohort
from fedmomentum.strategies.nodes import choose, wait_for_nodes
from fedmomentum.strategies.privacy import Privacy, check, probability
from fedmomentum.strategies.reports import Reports, added_up, column_of, mean_metrics, weights_of
from fedmomentum.strategies.robust import Aggregator, TooFewError, combined
from fedmomentum.strategies.seams import Seams
from fedmomentum.streams import stream
from fedmomentum.trees import Tree, cast_like, same_layout

MetricsFn = Callable[[list[RecordDict], str], MetricRecord]
"""Flower's signature of a function that aggregates metrics: contents of the replies, key of the weight."""

_BATCH_NORM = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(eq=False, repr=False)
class FedAvg(Seams):
    """Federated averaging: ``x <- sum_i (w_i / sum_j w_j) x_i``. arXiv:1602.05629.

    The parameters before the keyword-only ones are Flower's, in Flower's order and with Flower's defaults: changing an
    import changes a strategy. Every strategy of this package takes them all.

    One reply at a time is admitted or refused (see :func:`~fedmomentum.strategies.admission.admit`); refused clients
    are named in one warning and in ``rejected``, and the round goes on. Buffers (batch-norm statistics, counters) are
    averaged and never pass through a server optimizer. Every tensor keeps the dtype of the global model.

    Rounds count upwards. A ``configure_train`` whose round does not come after the last one finished begins a new
    run: server state is reset, unless ``load_state_dict`` was just called; then it is the next round of the saved run.

    Args:
        fraction_train: share of the nodes that train in a round, in [0, 1]; 0 skips training.
        fraction_evaluate: share of the nodes that evaluate, in [0, 1]; 0 skips evaluation.
        min_train_nodes: nodes that train at the least, where the fraction gives fewer.
        min_evaluate_nodes: nodes that evaluate at the least.
        min_available_nodes: nodes to wait for before choosing.
        weighted_by_key: metric of a reply that is its weight.
        arrayrecord_key: name of the model's record in messages.
        configrecord_key: name of the config record in messages.
        train_metrics_aggr_fn: aggregates training metrics in place of the weighted mean.
        evaluate_metrics_aggr_fn: aggregates evaluation metrics in place of the weighted mean.
        seed: of the cohorts; node ids are sorted before the draw, and the global random state is never used.
        cohort: chooses who trains, in place of ``fraction_train`` and ``min_train_nodes``.
        quorum: replies that must be admitted: a number of clients (int), or a share of those asked (float in (0, 1]).
            None is one reply. A round whose cohort is empty is skipped.
        on_missed_quorum: ``keep`` the old model, or ``stop`` with an error.
        node_timeout: seconds to wait for enough nodes to connect.
        buffers: exact names of the buffers; None finds them: names that end in ``running_mean``, ``running_var`` or
            ``num_batches_tracked``. A tensor that is not floating always is one.
        accumulation: ``wide`` (float64) or ``native`` (each tensor's own dtype: Flower's bits).
        reduction: ``mean`` lets the engine answer for a block of clients with the mean over them; ``every`` asks for
            each client's own reply. A wrapper that changes single replies, such as Flower's server-side clipping for
            differential privacy, needs ``every``; ``auto`` is ``mean`` only where nothing wraps the strategy: its own
            ``start`` or our round loop drives it. A config that names a reduction already has the last word.
        weighting: ``examples`` weighs a reply by its weight, ``uniform`` counts every client alike.
        aggregator: combines replies before the server's step in place of the mean, see
            :mod:`fedmomentum.strategies.robust`; it makes the engine send every client's own reply.
        privacy: makes the mean differentially private, see :class:`~fedmomentum.strategies.privacy.Privacy`; needs
            ``cohort=BernoulliCohort(probability=q, redraw=False)``, and every client counts alike.
        clip_update: largest Euclidean length of a client's update; a longer one is shortened before it is combined.
        max_update_norm: largest Euclidean length of a client's update; a longer one is refused (``clip_update`` keeps
            and shortens it). It makes the engine send every client's own reply.
        step_schedule: round, from 0 -> factor on the server's step (a learning rate schedule, a warm-up); None is 1.

    Attributes:
        rejected: clients of the last ``aggregate_train`` whose replies were not used, or never came, and why.
        accepted: clients whose replies were used in it; a block counts each of its members.
        round: the last round that was aggregated; 0 before the first.
        population: nodes that were connected when the last cohort was chosen.

    Raises:
        ValueError: an argument is out of range.
    """

    fraction_train: float = 1.0
    fraction_evaluate: float = 1.0
    min_train_nodes: int = 2
    min_evaluate_nodes: int = 2
    min_available_nodes: int = 2
    weighted_by_key: str = protocol.NUM_EXAMPLES
    arrayrecord_key: str = protocol.ARRAYS
    configrecord_key: str = protocol.CONFIG
    train_metrics_aggr_fn: MetricsFn | None = None
    evaluate_metrics_aggr_fn: MetricsFn | None = None
    _: KW_ONLY
    seed: int = 0
    cohort: Cohort | None = None
    quorum: int | float | None = None
    on_missed_quorum: Literal["keep", "stop"] = "keep"
    node_timeout: float = 60.0
    buffers: Collection[str] | None = None
    accumulation: Accumulation = "wide"
    reduction: Literal["auto", "mean", "every"] = "auto"
    weighting: Literal["examples", "uniform"] = "examples"
    aggregator: Aggregator | None = None
    clip_update: float | None = None
    max_update_norm: float | None = None
    step_schedule: Callable[[int], float] | None = None
    privacy: Privacy | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name in ("fraction_train", "fraction_evaluate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        _check_choice("on_missed_quorum", self.on_missed_quorum, ("keep", "stop"))
        _check_choice("accumulation", self.accumulation, ("wide", "native"))
        _check_choice("reduction", self.reduction, ("auto", protocol.MEAN, protocol.EVERY))
        _check_choice("weighting", self.weighting, (protocol.EXAMPLES, protocol.UNIFORM))
        for name in ("clip_update", "max_update_norm"):
            if (longest := getattr(self, name)) is not None and not longest > 0:
                raise ValueError(f"{name} must be above 0, not {longest}")
        if self.max_update_norm is not None and type(self).reply_layout is not FedAvg.reply_layout:
            raise ValueError(f"{type(self).__name__} gets no models back: no max_update_norm goes with it")
        if self._robust and (self.single_replies or type(self).extra_in_replies is not FedAvg.extra_in_replies):
            raise ValueError(
                f"{type(self).__name__} averages more than models: no aggregator, clip_update or privacy goes with it"
            )
        if self.privacy is not None:
            needs_more = bool(self.needs_metrics) or self.counts_replies
            others = (self.aggregator, self.clip_update, self.quorum)
            check(self.privacy, who=type(self).__name__, needs_more=needs_more, others=others, cohort=self.cohort)
        if isinstance(self.buffers, str):
            raise ValueError(f"buffers must be a collection of names, not the string '{self.buffers}'")
        if isinstance(self.quorum, float) and not 0.0 < self.quorum <= 1.0:
            raise ValueError(f"quorum as a share of the cohort must be in (0, 1], not {self.quorum}")
        if isinstance(self.quorum, int) and self.quorum < 1:
            raise ValueError(f"quorum as a number of clients must be at least 1, not {self.quorum}")
        self._drives = False
        self.rejected: list[Failure] = []
        self.accepted = 0
        self.round = 0
        self.population = 0
        self._offset = 0
        self._resumed = False
        self._asked: Sequence[int] = []
        self._sent: records.Views | None = None
        self._old: Tree = {}
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

    @property
    def _uniform(self) -> bool:
        return self.weighting == protocol.UNIFORM or self.privacy is not None

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
        unknown = sorted(set(self.buffers or ()).difference(self._sent))
        if unknown:
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

        filled = {**config, protocol.SERVER_ROUND: now, protocol.REDUCTION: self._reduction(config)}
        if self.buffers is not None:
            filled[protocol.BUFFERS] = "\n".join(sorted(self.buffers))
        if self.weighting == protocol.UNIFORM:
            filled[protocol.WEIGHTING] = protocol.UNIFORM
        extras = {name: records.record(extra) for name, extra in self.extra_to_clients(self._old).items()}
        content = RecordDict({**extras, self.arrayrecord_key: arrays, self.configrecord_key: ConfigRecord(filled)})
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
        old = self._old
        means = records.shared({name: mean[name] for name in old})
        if self.sends_models and not self._robust:
            metrics.update(self._agreement(_widened(old), _widened(means)))
        new = self.server_update(_widened(old), _widened(means), self._mean_extras(admitted, weights))
        same_layout(new, old)
        if self.step_schedule is not None:
            factor = self.step_schedule(now - 1)
            new = {name: x + factor * (new[name] - x) for name, x in _widened(old).items()}
        stepped = {name: cast_like(new[name], x) for name, x in old.items()}
        made = admitted[0].record if len(admitted) == 1 else {}
        return records.record({**mean, **stepped}, made), metrics

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

    def summary(self) -> None:
        """Log the algorithm's settings, and those of the shared ones that differ from their defaults."""
        shared = {f.name: f.default for f in fields(FedAvg)}
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        own = [f"{name}={value}" for name, value in values.items() if name not in shared]
        changed = [f"{name}={value}" for name, value in values.items() if name in shared and value != shared[name]]
        log(INFO, "\t├── %s: %s", type(self).__name__, ", ".join(own) or "no settings of its own")
        log(INFO, "\t└── Shared settings: %s", ", ".join(changed) or "defaults")

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

    def _is_buffer(self, name: str, x: NDArray[Any]) -> bool:
        if x.dtype.kind != "f":
            return True
        return name.endswith(_BATCH_NORM) if self.buffers is None else name in self.buffers

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

    def _agreement(self, old: Tree, mean: Tree) -> dict[str, float]:
        lengths = column_of(self._reports, DRIFT)
        if lengths is None:
            return {}
        return agreement(old, mean, lengths.tolist(), self._weights().tolist(), population=self.population)

    @property
    def _robust(self) -> bool:
        return any(x is not None for x in (self.aggregator, self.clip_update, self.privacy))

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


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not '{value}'")


def _widened(tree: Tree) -> Tree:
    """Give half-precision tensors in float32: squares of small steps vanish in float16."""
    return {name: x.float() if x.element_size() < 4 else x for name, x in tree.items()}
