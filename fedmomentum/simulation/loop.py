"""The round loop, in one place: choose the cohort, train, aggregate, evaluate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.exception import AggregationError
from flwr.serverapp.strategy import Strategy

from fedmomentum.events import Failure, Listener, RoundEnd
from fedmomentum.protocol import EVERY, MEAN, MEMBERS, REDUCTION
from fedmomentum.strategies.fedavg import FedAvg


class RoundStoppedError(RuntimeError):
    """A strategy said that a round must not go on, such as for a missed quorum; the message says why."""


Evaluate = Callable[[int, ArrayRecord], Mapping[str, float] | None]
"""Central evaluation: round and model -> metrics, or None in a round that is not evaluated."""


@dataclass
class LoopResult:
    """What the rounds gave: the last model, and one row of metrics a round (round 0 is the model at the start)."""

    arrays: ArrayRecord
    rows: list[dict[str, float]] = field(default_factory=list)
    failures: list[tuple[int, Failure]] = field(default_factory=list)


class _Clock:
    """Splits a round's time by phase."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self.began = self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.phases[phase] = self.phases.get(phase, 0.0) + now - self._last
        self._last = now


def run_rounds(
    strategy: Strategy,
    grid: Grid,
    arrays: ArrayRecord,
    rounds: int,
    *,
    first_round: int = 1,
    evaluate: Evaluate | None = None,
    train_config: Mapping[str, Any] | None = None,
    evaluate_config: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    listeners: Sequence[Listener] = (),
    arm: str = "",
    after_round: Callable[[int, ArrayRecord], None] | None = None,
    elapsed_before: float = 0.0,
) -> LoopResult:
    """Run rounds ``first_round`` to ``rounds`` of any Flower strategy on any Flower grid.

    Each round is four steps: (1) the strategy chooses the cohort and what it is sent, (2) the grid trains it, (3) the
    strategy aggregates the replies into a new model, (4) the model is evaluated, on clients if the strategy asks for it
    and centrally if ``evaluate`` is given. ``after_round`` is where a checkpoint is taken: everything that the next
    round depends on is then in the arrays, the strategy and the grid.

    Raises:
        RoundStoppedError: the strategy says that a round must not go on (a missed quorum).
    """
    result = LoopResult(arrays)
    config = {REDUCTION: _reduction(strategy), **(train_config or {})}
    began = time.perf_counter() - elapsed_before
    if evaluate is not None and first_round == 1:
        clock = _Clock()
        if (found := evaluate(0, arrays)) is not None:
            clock.lap("evaluate")
            first = {"round": 0, **found, "seconds": clock.phases["evaluate"], "elapsed": time.perf_counter() - began}
            result.rows.append(first)
            _tell(listeners, RoundEnd(0, rounds, first, arm=arm, seconds_by_phase=clock.phases))
    late: dict[str, float] = {}
    for server_round in range(first_round, rounds + 1):
        clock = _Clock()
        # 1. choose the cohort
        messages = _sequence(strategy.configure_train(server_round, result.arrays, ConfigRecord(dict(config)), grid))
        clock.lap("configure")
        # 2. train
        replies = list(grid.send_and_receive(messages, timeout=timeout))
        clock.lap("train")
        clients, failures = _outcome(grid, replies)
        traffic = getattr(grid, "report", None)
        # 3. aggregate
        try:
            new_arrays, train_metrics = strategy.aggregate_train(server_round, replies)
        except AggregationError as error:
            raise RoundStoppedError(str(error)) from error
        if new_arrays is not None:
            result.arrays = new_arrays
        named = {failure.client for failure in failures}
        failures += [failure for failure in getattr(strategy, "rejected", ()) if failure.client not in named]
        clock.lap("aggregate")
        # 4. evaluate
        row: dict[str, float] = {"round": server_round}
        row.update(_numbers(train_metrics))
        asked = _sequence(
            strategy.configure_evaluate(server_round, result.arrays, ConfigRecord(dict(evaluate_config or {})), grid)
        )
        if asked:
            local = strategy.aggregate_evaluate(server_round, list(grid.send_and_receive(asked, timeout=timeout)))
            row.update({f"client_{name}": value for name, value in _numbers(local).items()})
            clock.lap("evaluate_clients")
        if evaluate is not None and (found := evaluate(server_round, result.arrays)) is not None:
            row.update(found)
            clock.lap("evaluate")
        row["cohort"] = len(messages)
        row["replies"] = len(messages) - len({f.client for f in failures})
        row["failures"] = len(failures)
        if traffic is not None:
            row["bytes_down"], row["bytes_up"] = traffic.bytes_down, traffic.bytes_up
            if traffic.simulated_time is not None:
                row["simulated_time"] = traffic.simulated_time
        clock.phases.update(late)
        row["seconds"] = time.perf_counter() - clock.began
        row["elapsed"] = time.perf_counter() - began
        result.rows.append(row)
        result.failures += [(server_round, failure) for failure in failures]
        _tell(
            listeners,
            RoundEnd(server_round, rounds, row, clients, tuple(failures), clock.phases, arm),
        )
        if after_round is not None:
            # after the row is told, so that a kill between the two repeats a round instead of losing its row; the time
            # it takes goes with the next row
            before = time.perf_counter()
            after_round(server_round, result.arrays)
            late = {"checkpoint": time.perf_counter() - before}
    return result


def _reduction(strategy: Strategy) -> str:
    """Say whether blocks may answer with their mean: only to a strategy of ours that sees the replies itself.

    Anything that wraps a strategy (Flower's server-side clipping clips single replies) would take a block for a client.
    """
    return MEAN if isinstance(strategy, FedAvg) and strategy.reduction != EVERY else EVERY


def _sequence(messages: Iterable[Message]) -> Sequence[Message]:
    """Give messages that can be counted; those that are not made yet stay so."""
    return messages if isinstance(messages, Sequence) else list(messages)


def _tell(listeners: Iterable[Listener], event: RoundEnd) -> None:
    for listener in listeners:
        listener.round_end(event)


def _numbers(record: MetricRecord | None) -> dict[str, float]:
    return {name: float(v) for name, v in record.items() if isinstance(v, int | float)} if record else {}


def _outcome(grid: Grid, replies: Sequence[Message]) -> tuple[dict[str, list[float]], list[Failure]]:
    """Give a table of the clients that answered, and those that failed, from any grid's replies."""
    report = getattr(grid, "report", None)
    if report is not None:
        return dict(report.members), list(report.failures)
    table: dict[str, list[float]] = {}
    failures: list[Failure] = []
    for reply in replies:
        node = reply.metadata.src_node_id
        if reply.has_error():
            failures.append(Failure(node, reply.error.reason or "gave no reason"))
        elif MEMBERS not in reply.content:
            numbers = _numbers(next(iter(reply.content.metric_records.values()), None))
            for name, value in {"client": float(node), **numbers}.items():
                table.setdefault(name, []).append(value)
    return table, failures
