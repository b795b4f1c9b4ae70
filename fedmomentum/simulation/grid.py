"""The engine as a Flower Grid: a strategy cannot tell it from a deployment."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Literal, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from numpy.typing import NDArray

from fedmomentum.clients import fold
from fedmomentum.clients.app import records_of
from fedmomentum.clients.block import Arrays, BlockResult, BlockTask
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.events import Failure, Span
from fedmomentum.heap import give_back
from fedmomentum.protocol import (
    EVERY,
    EXAMPLES,
    GRADIENT_QUERY,
    MEAN,
    MEMBERS,
    METRICS,
    NUM_EXAMPLES,
    REDUCTION,
    SERVER_ROUND,
    UNIFORM,
    WEIGHTING,
)
from fedmomentum.simulation import flower
from fedmomentum.simulation.blocks import automatic_block_size, cut
from fedmomentum.simulation.executor import Executor, Lost
from fedmomentum.simulation.faults import Faults, Outcome
from fedmomentum.simulation.memory import ClientMemory
from fedmomentum.strategies.broadcast import Broadcast
from fedmomentum.strategies.records import Late, filled, keeping, of_kind, unread, views
from fedmomentum.strategies.records import array as to_array
from fedmomentum.trees import State

_RUN_IDS = count(1)


@dataclass
class RoundReport:
    """What happened to the clients of the last round, beyond what fits into replies."""

    members: dict[str, list[float]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    bytes_down: int = 0
    """Bytes of the records that clients were sent, were each one a machine of its own."""
    bytes_up: int = 0
    broadcast_bytes: int = 0
    """Bytes that were broadcast to the workers, once for all of them."""
    gathered_bytes: int = 0
    """Bytes of models that workers answered with."""
    spans: list[Span] = field(default_factory=list)
    """What workers did and when."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds of the parts of the exchange beside the clients' work: ``broadcast`` and ``reduce``."""
    worker_seconds: float = 0.0
    simulated_time: float | None = None
    preliminary: bool = False
    """Whether the round goes on with another exchange, whose report takes this one's costs over."""


class BaseGrid(Grid):
    """What every grid of ours shares: nodes numbered from 0, messages stamped, replies in one round trip."""

    def __init__(self, clients: int) -> None:
        """Make a grid of so many nodes; node ``i`` is client ``i``."""
        self._run_id = next(_RUN_IDS)
        flower.adopt_identity(self._run_id)
        self._run = flower.empty_run(self._run_id)
        self._nodes = range(clients)
        self._message_ids = count(1)
        self._pending: dict[str, Message] = {}
        self.report = RoundReport()

    def set_run(self, run: Run) -> None:
        """Take another run's information."""
        self._run = run

    @property
    def run(self) -> Run:
        """Give the information of the run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Give every registered node."""
        return self._nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages; they are worked on when their replies are pulled."""
        stamped = self._stamp(messages)
        self._pending.update((m.metadata.message_id, m) for m in stamped)
        return [m.metadata.message_id for m in stamped]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Give the replies to messages that were pushed."""
        return self._work([self._pending.pop(i) for i in message_ids if i in self._pending], None)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Work on messages and give the replies, in an order that depends on the messages alone."""
        return self._work(self._stamp(messages), timeout)

    def _stamp(self, messages: Iterable[Message]) -> list[Message]:
        stamped = list(messages)
        for message in stamped:
            flower.stamp(message, self._next_id())
        return stamped

    def _next_id(self) -> str:
        return f"m{next(self._message_ids)}"

    @abstractmethod
    def _work(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        """Give the replies to stamped messages."""


class SimulationGrid(BaseGrid):
    """Simulated clients of ours, worked on block by block.

    Args:
        executor: runs blocks; its workers are :class:`fedmomentum.clients.worker.Worker`.
        spec: what a client does.
        sizes: training examples of each client ``[C]``: the work that blocks are cut by.
        block_size: clients a block; None leaves it to :func:`fedmomentum.simulation.blocks.automatic_block_size`.
        stacked: whether workers train a block's clients stacked, which makes larger blocks the better ones.
        faults: what goes wrong.
        memory: holds what clients keep between rounds; None keeps all of it in memory.
    """

    def __init__(
        self,
        executor: Executor,
        spec: ClientSpec,
        sizes: NDArray[np.integer],
        *,
        block_size: int | None = None,
        stacked: bool = False,
        faults: Faults | None = None,
        memory: ClientMemory | None = None,
    ) -> None:
        """Register one node for each entry of ``sizes``."""
        super().__init__(len(sizes))
        self.executor, self.spec, self.sizes = executor, spec, sizes
        self._steps = spec.steps_of(np.asarray(sizes))
        self._cut: tuple[object, list[tuple[int, ...]]] = None, []
        self.block_size, self.stacked = block_size, stacked
        self.faults = faults or Faults()
        self.memory = memory if memory is not None else ClientMemory()
        """What clients kept, by client."""

    def state_dict(self) -> dict[str, object]:
        """Give all that the engine carries from one round to the next: what clients kept."""
        return {"memory": self.memory.snapshot()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from a state."""
        self.memory = ClientMemory(self.memory.limit, self.memory.folder)
        self.memory.update(cast(Mapping[int, State], state["memory"]))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Work on messages and give the replies, in an order that depends on the messages alone."""
        if isinstance(messages, Broadcast):
            return self._exchange([messages] if messages else [], timeout)
        return super().send_and_receive(messages, timeout=timeout)

    def _work(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        groups: dict[tuple[str, int], list[Message]] = {}
        for message in messages:  # the messages of a round share one content: the model travels once
            groups.setdefault((message.metadata.message_type, id(message.content)), []).append(message)
        return self._exchange(list(groups.values()), timeout)

    def _exchange(self, groups: Sequence[Sequence[Message]], timeout: float | None) -> list[Message]:
        """Work on groups of messages, each with one content and type."""
        mails = [_Mail(group, self._next_id) for group in groups]
        before, self.report = self.report, RoundReport()
        if before.preliminary:
            self.report.bytes_down, self.report.bytes_up = before.bytes_down, before.bytes_up
            self.report.worker_seconds = before.worker_seconds
            self.report.broadcast_bytes, self.report.gathered_bytes = before.broadcast_bytes, before.gathered_bytes
            self.report.spans, self.report.phases = before.spans, before.phases
        self.report.preliminary = any(mail.message_type == GRADIENT_QUERY for mail in mails)
        replies: list[Message] = []
        for mail in mails:
            replies += self._round(mail, _kind(mail.message_type), timeout)
        return replies

    def _round(
        self, mail: _Mail, kind: Literal["train", "evaluate", "gradient"], timeout: float | None
    ) -> list[Message]:
        config = next(iter(of_kind(mail.content, ConfigRecord).values()), ConfigRecord())
        records = records_of(mail.content, views)  # no copy: the numbers stay in the bytes of the message
        server_round = int(config.get(SERVER_ROUND, 1))  # type: ignore[arg-type]
        reduce = config.get(REDUCTION, EVERY) == MEAN
        outcome = self._outcome(server_round, mail.clients, kind)
        model_bytes = _bytes_of(records)
        large = reduce and kind != "evaluate" and model_bytes >= fold.LARGE
        size = self.block_size or (
            fold.block_size(len(outcome.clients))
            if large
            else automatic_block_size(len(outcome.clients), stacked=self.stacked)
        )
        uniform = config.get(WEIGHTING, EXAMPLES) == UNIFORM
        kept: Mapping[int, State] = self.memory or {}
        tasks = [
            BlockTask(
                index=index,
                kind=kind,
                round=server_round,
                clients=block,
                reduce=reduce,
                fold=large,
                uniform=uniform,
                effort=tuple(outcome.effort.get(c, 1.0) for c in block) if outcome.effort else None,
                memory={c: kept[c] for c in block if c in kept} if kept else {},
            )
            for index, block in enumerate(self._blocks(outcome, size))
        ]
        work_units: Sequence[BlockTask | fold.Bundle] = tasks
        if large:
            workers = int(self.executor.facts().get("workers", 1))  # type: ignore[call-overload]
            work_units = fold.bundles(tasks, workers)
            give_back()
        results = self.executor.run(work_units, records, timeout=timeout)
        began, report, replies = time.perf_counter(), self.report, []
        _count(report.phases, "broadcast", getattr(self.executor, "broadcast_seconds", 0.0))
        report.simulated_time = outcome.duration
        report.broadcast_bytes += model_bytes
        report.bytes_down += model_bytes * len(outcome.clients)
        failures = list(outcome.failures)
        good: list[BlockResult | None] = []
        for unit, result in zip(work_units, results, strict=True):
            if isinstance(result, Lost):
                failures += [Failure(c, result.reason, result.kind) for c in unit.clients]
                result = None
            elif result is not None:
                report.gathered_bytes += _sent(result)
            good.append(result)
        del results
        folded: dict[str, ArrayRecord] = {}
        if large and good:
            for name, tensor, mean in fold.means(good, records, uniform=uniform):
                folded.setdefault(name, ArrayRecord())[tensor] = to_array(mean)
            good = [fold.outcome(good)]
            give_back()
        while good:  # a result goes as its reply comes: a large model would not fit twice
            if (result := good.pop(0)) is None:
                continue
            if result.memory:
                self.memory.update(result.memory)
            failures += result.failures
            report.worker_seconds += result.seconds
            report.spans += result.spans
            if kind != "evaluate":
                sent = _bytes_of({name: views(record) for name, record in folded.items()}) if large else _sent(result)
                report.bytes_up += sent * (len(result.members["client"]) if reduce else 1)
            for name, column in result.members.items():
                report.members.setdefault(name, []).extend(column)
            replies += self._replies(result, mail, folded, reduce=reduce)
        _count(report.phases, "reduce", time.perf_counter() - began)
        report.failures += failures
        replies += [
            flower.error_reply(mail.to(f.client), f"client {f.client}: {f.reason} [{f.kind}]") for f in failures
        ]
        return replies

    def _outcome(
        self, server_round: int, clients: Sequence[int], kind: Literal["train", "evaluate", "gradient"]
    ) -> Outcome:
        """Give who works in a round; nothing goes wrong in an evaluation."""
        faults = Faults() if kind == "evaluate" else self.faults
        return faults.outcome(server_round, clients, () if faults.none else self._steps[_numbers(clients)].tolist())

    def _blocks(self, outcome: Outcome, size: int) -> list[tuple[int, ...]]:
        """Give the blocks of those who work, cut by the steps that each takes; the same clients' are cut once."""
        key = None if outcome.effort else (outcome.clients, size)
        if key is None or key != self._cut[0]:
            steps = self._steps[_numbers(outcome.clients)]
            if outcome.effort:
                steps = steps * [outcome.effort.get(client, 1.0) for client in outcome.clients]
            self._cut = key, cut(outcome.clients, steps, size)
        return self._cut[1]

    def _replies(
        self, result: BlockResult, mail: _Mail, folded: Mapping[str, ArrayRecord], *, reduce: bool
    ) -> list[Message]:
        """Give one reply for the block, or one for each of its clients; ``folded`` are its means where it has none."""
        members = result.members
        if not members["client"]:
            return []
        if reduce:
            weights = members[NUM_EXAMPLES]
            columns = {name: column for name, column in members.items() if name != "client"}
            means = Late({**columns, NUM_EXAMPLES: float(sum(weights))}, float, partial(_mean, weights=weights))
            models = {name: unread(arrays) for name, arrays in (result.mean or {}).items()}
            table = filled(ConfigRecord(), members)
            content = {METRICS: keeping(MetricRecord(), means), **models, **folded, MEMBERS: table}
            return [mail.reply(int(members["client"][0]), filled(RecordDict(), content))]
        replies = []
        for position, client in enumerate(members["client"]):
            numbers = {name: float(column[position]) for name, column in members.items() if name != "client"}
            own = {name: unread(arrays) for name, arrays in (result.each[position] if result.each else {}).items()}
            content = {METRICS: filled(MetricRecord(), numbers), **own}
            replies.append(mail.reply(int(client), filled(RecordDict(), content)))
        return replies


def _mean(column: Sequence[float], *, weights: Sequence[float]) -> float:
    """Give the weighted mean of a metric over the clients of a block; zero where nobody counts."""
    weights_K = np.asarray(weights, dtype=np.float64)
    total = float(weights_K.sum())
    return float(weights_K @ np.asarray(column)) / total if total > 0 else 0.0


def _count(phases: dict[str, float], phase: str, seconds: float) -> None:
    if seconds:
        phases[phase] = phases.get(phase, 0.0) + seconds


class _Mail:
    """The messages of one content and type, by client, and the replies to them."""

    def __init__(self, messages: Sequence[Message], next_id: Callable[[], str]) -> None:
        """Take messages: stamped ones, or a broadcast whose messages need not be there yet."""
        self._messages, self._next_id = messages, next_id
        self._broadcast = messages if isinstance(messages, Broadcast) else None
        if isinstance(messages, Broadcast):
            self.content, self.message_type = messages.content, messages.message_type
            nodes = messages.nodes
        else:
            self.content, self.message_type = messages[0].content, messages[0].metadata.message_type
            nodes = [message.metadata.dst_node_id for message in messages]
        self._nodes = nodes
        self._positions: dict[int, int] | None = None
        self.clients: Sequence[int] = nodes if isinstance(nodes, range) else sorted(set(nodes))

    def to(self, client: int) -> Message:
        """Give the message to a client, stamped."""
        message = self._messages[self._position(client)]
        if self._broadcast is not None:
            flower.stamp(message, self._next_id())
        return message

    def reply(self, client: int, content: RecordDict) -> Message:
        """Give the reply of a client; a message that nobody has looked at yet is not made for that."""
        position = self._position(client)
        if self._broadcast is None or self._broadcast.seen(position):
            return flower.reply(self.to(client), content)
        self._broadcast.ids[position] = identity = self._next_id()
        return flower.reply_unseen(content, node=client, identity=identity, message_type=self.message_type)

    def _position(self, client: int) -> int:
        if isinstance(self._nodes, range):
            return self._nodes.index(client)
        if self._positions is None:
            self._positions = {node: position for position, node in enumerate(self._nodes)}
        return self._positions[client]


def _numbers(clients: Sequence[int]) -> NDArray[np.int64]:
    if isinstance(clients, range):
        return np.arange(clients.start, clients.stop, clients.step)
    return np.array(clients, np.int64)


def _kind(message_type: str) -> Literal["train", "evaluate", "gradient"]:
    if message_type == GRADIENT_QUERY:
        return "gradient"
    return "evaluate" if message_type.split(".")[0] == MessageType.EVALUATE else "train"


def _bytes_of(records: Mapping[str, Arrays]) -> int:
    return sum(array.nbytes for arrays in records.values() for array in arrays.values())


def _sent(result: BlockResult) -> int:
    """Give the bytes of the models in a result."""
    if result.each is not None:
        return sum(map(_bytes_of, result.each))
    return _bytes_of(result.mean or result.sums or {})
