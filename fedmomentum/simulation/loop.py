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

from fedmomentum.events import Failure, Listener
from fedmomentum.protocol import EVERY, MEAN, MEMBERS, REDUCTION
from fedmomentum.simulation.grid import RoundReport
from fedmomentum.simulation.telling import AfterRound, Clock, Done, Evaluation, Teller
from fedmomentum.strategies.fedavg import FedAvg


class RoundStoppedError(RuntimeError):
    """A strategy said that a round must not go on, such as for a missed quorum; the message says why."""


Evaluate = Callable[[int, ArrayRecord], Evaluation | None]
"""Central evaluation: round and model -> metrics, at once or pending, or None in a round that is not evaluated."""


@dataclass
class LoopResult:
    """What the rounds gave: the last model, and one row of metrics a round (round 0 is the model at the start)."""

    arrays: ArrayRecord
    rows: list[dict[str, float]] = field(default_factory=list)
    failures: list[tuple[int, Failure]] = field(default_factory=list)


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
    after_round: AfterRound | None = None,
    settle: Callable[[int, ArrayRecord], bool] = lambda server_round, arrays: True,
    elapsed_before: float = 0.0,
) -> LoopResult:
    """Run rounds ``first_round`` to ``rounds`` of any Flower strategy on any Flower grid.

    Each round is four steps: (1) the strategy chooses the cohort and what it is sent, (2) the grid trains it, (3) the
    strategy aggregates the replies into a new model, (4) the model is evaluated, on clients if the strategy asks for it
    and centrally if ``evaluate`` is given. ``after_round`` is where a checkpoint is taken: everything that the next
    round depends on is then in the arrays, the strategy and the grid.

    A central evaluation that is pending goes on beside the next round, and its round is told when that one has trained:
    the same rows in the same order. A round that ``settle`` names (after a look at its model) is told before the next
    one begins, as are the last one and those whose evaluation is there at once; ``after_round`` is called after these
    alone, because the state of a round that is told late is gone.

    Raises:
        RoundStoppedError: the strategy says that a round must not go on (a missed quorum).
    """
    to_train = ConfigRecord({REDUCTION: _reduction(strategy), **(train_config or {})})
    to_evaluate = ConfigRecord(dict(evaluate_config or {}))
    began = time.perf_counter() - elapsed_before
    teller = Teller(rounds, listeners, arm, after_round)
    if evaluate is not None and first_round == 1:
        clock = Clock()
        if (evaluation := evaluate(0, arrays)) is not None:
            clock.lap("evaluate")
            times = {"seconds": clock.seconds, "elapsed": time.perf_counter() - began}
            teller.take(Done(0, arrays, evaluation, clock, {"round": 0}, times), settled=False)
    try:
        for server_round in range(first_round, rounds + 1):
            clock = Clock()
            # 1. choose the cohort
            messages = _sequence(strategy.configure_train(server_round, arrays, to_train.copy(), grid))
            clock.lap("configure")
            # 2. train
            replies = list(grid.send_and_receive(messages, timeout=timeout))
            clock.lap("train")
            clients, failures = _outcome(grid, replies)
            traffic = getattr(grid, "report", None)
            clock.split("train", getattr(traffic, "phases", {}))
            teller.catch_up()
            clock.skip()
            # 3. aggregate
            try:
                new_arrays, train_metrics = strategy.aggregate_train(server_round, replies)
            except AggregationError as error:
                raise RoundStoppedError(str(error)) from error
            if new_arrays is not None:
                arrays = new_arrays
            cohort = len(messages)
            del messages, replies, new_arrays  # a large model is not kept twice
            named = {failure.client for failure in failures}
            failures += [failure for failure in getattr(strategy, "rejected", ()) if failure.client not in named]
            clock.lap("aggregate")
            # 4. evaluate
            row: dict[str, float] = {"round": server_round, **_numbers(train_metrics)}
            asked = _sequence(strategy.configure_evaluate(server_round, arrays, to_evaluate.copy(), grid))
            if asked:
                local = strategy.aggregate_evaluate(server_round, list(grid.send_and_receive(asked, timeout=timeout)))
                row.update({f"client_{name}": value for name, value in _numbers(local).items()})
                clock.lap("evaluate_clients")
            if (found := None if evaluate is None else evaluate(server_round, arrays)) is not None:
                clock.lap("evaluate")
            tail = _tail(cohort, failures, traffic, clock, began)
            done = Done(server_round, arrays, found, clock, row, tail, clients, failures)
            teller.take(done, settled=settle(server_round, arrays) or server_round == rounds)
    except BaseException:
        teller.rescue()
        raise
    return LoopResult(arrays, teller.rows, teller.failures)


def _tail(
    cohort: int, failures: Sequence[Failure], traffic: RoundReport | None, clock: Clock, began: float
) -> dict[str, float]:
    """Give the last columns of a row: who replied, what travelled, how long it took."""
    tail: dict[str, float] = {
        "cohort": cohort,
        "replies": cohort - len({failure.client for failure in failures}),
        "failures": len(failures),
    }
    if traffic is not None:
        tail["bytes_down"], tail["bytes_up"] = traffic.bytes_down, traffic.bytes_up
        clock.spans += traffic.spans
        if traffic.simulated_time is not None:
            tail["simulated_time"] = traffic.simulated_time
    tail["seconds"], tail["elapsed"] = clock.seconds, time.perf_counter() - began
    return tail


def _reduction(strategy: Strategy) -> str:
    """Say whether blocks may answer with their mean: only to a strategy of ours that sees the replies itself.

    Anything that wraps a strategy (Flower's server-side clipping clips single replies) would take a block for a client.
    """
    return MEAN if isinstance(strategy, FedAvg) and strategy.reduction != EVERY else EVERY


def _sequence(messages: Iterable[Message]) -> Sequence[Message]:
    """Give messages that can be counted; those that are not made yet stay so."""
    return messages if isinstance(messages, Sequence) else list(messages)


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
