"""What every strategy of this package can be told, and which settings are refused, alone or together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import KW_ONLY, dataclass, fields
from logging import INFO
from typing import Any, Literal

from flwr.app import MetricRecord, RecordDict
from flwr.supercore import log
from numpy.typing import NDArray

from fedmomentum import protocol
from fedmomentum.strategies.aggregation import Accumulation
from fedmomentum.strategies.cohort import Cohort
from fedmomentum.strategies.privacy import Privacy, check
from fedmomentum.strategies.robust import Aggregator
from fedmomentum.strategies.seams import Seams

MetricsFn = Callable[[list[RecordDict], str], MetricRecord]
"""Flower's signature of a function that aggregates metrics: contents of the replies, key of the weight."""

_BATCH_NORM = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(eq=False, repr=False)
class Settings(Seams):
    """The settings of :class:`~fedmomentum.strategies.fedavg.FedAvg`, which every strategy takes beside its own.

    Those before the keyword-only ones are Flower's, in Flower's order and with Flower's defaults: changing an import
    changes a strategy.

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

    Raises:
        ValueError: a setting is out of range, or does not go with another one or with the algorithm.
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
        """Check each setting, then those that do not go together."""
        for name in ("fraction_train", "fraction_evaluate"):
            if not 0.0 <= (share := getattr(self, name)) <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], not {share}")
        _check_choice("on_missed_quorum", self.on_missed_quorum, ("keep", "stop"))
        _check_choice("accumulation", self.accumulation, ("wide", "native"))
        _check_choice("reduction", self.reduction, ("auto", protocol.MEAN, protocol.EVERY))
        _check_choice("weighting", self.weighting, (protocol.EXAMPLES, protocol.UNIFORM))
        for name in ("clip_update", "max_update_norm"):
            if (longest := getattr(self, name)) is not None and not longest > 0:
                raise ValueError(f"{name} must be above 0, not {longest}")
        if isinstance(self.buffers, str):
            raise ValueError(f"buffers must be a collection of names, not the string '{self.buffers}'")
        if isinstance(self.quorum, float) and not 0.0 < self.quorum <= 1.0:
            raise ValueError(f"quorum as a share of the cohort must be in (0, 1], not {self.quorum}")
        if isinstance(self.quorum, int) and self.quorum < 1:
            raise ValueError(f"quorum as a number of clients must be at least 1, not {self.quorum}")
        if self.max_update_norm is not None and type(self).reply_layout is not Seams.reply_layout:
            raise ValueError(f"{type(self).__name__} gets no models back: no max_update_norm goes with it")
        if self._robust and (self.single_replies or type(self).extra_in_replies is not Seams.extra_in_replies):
            raise ValueError(
                f"{type(self).__name__} averages more than models: no aggregator, clip_update or privacy goes with it"
            )
        if self.privacy is not None:
            needs_more = bool(self.needs_metrics) or self.counts_replies
            others = (self.aggregator, self.clip_update, self.quorum)
            check(self.privacy, who=type(self).__name__, needs_more=needs_more, others=others, cohort=self.cohort)

    def summary(self) -> None:
        """Log the algorithm's settings, and those of the shared ones that differ from their defaults."""
        shared = {f.name: f.default for f in fields(Settings)}
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        own = [f"{name}={value}" for name, value in values.items() if name not in shared]
        changed = [f"{name}={value}" for name, value in values.items() if name in shared and value != shared[name]]
        log(INFO, "\t├── %s: %s", type(self).__name__, ", ".join(own) or "no settings of its own")
        log(INFO, "\t└── Shared settings: %s", ", ".join(changed) or "defaults")

    @property
    def _uniform(self) -> bool:
        """Whether every client counts alike."""
        return self.weighting == protocol.UNIFORM or self.privacy is not None

    @property
    def _robust(self) -> bool:
        """Whether replies are combined one by one, in another way than their mean."""
        return any(x is not None for x in (self.aggregator, self.clip_update, self.privacy))

    def _is_buffer(self, name: str, x: NDArray[Any]) -> bool:
        """Say whether a tensor is averaged and never passes through a server optimizer."""
        if x.dtype.kind != "f":
            return True
        return name.endswith(_BATCH_NORM) if self.buffers is None else name in self.buffers


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not '{value}'")
