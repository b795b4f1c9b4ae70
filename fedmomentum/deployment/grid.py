"""Flower's grid of real nodes as the grid of numbered clients that a strategy sees in a simulation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedmomentum.clients.app import round_of
from fedmomentum.deployment.roster import Roster
from fedmomentum.deployment.terms import TERMS
from fedmomentum.events import Failure
from fedmomentum.protocol import GRADIENT_QUERY, NUM_EXAMPLES
from fedmomentum.simulation import flower
from fedmomentum.simulation.grid import RoundReport

POLL = 0.25
"""Seconds between two looks for replies."""
SLACK = 10.0
"""Seconds after the deadline of a round at which Flower drops its messages; clocks of nodes may be off by as much."""


class DeployedGrid(Grid):
    """Sends the messages of a round to the nodes that are the clients, and waits for replies until a deadline.

    A client that does not answer in time, has gone, failed, or reports another number of examples than it announced
    gets an error reply that names it; the round goes on with the others.

    Args:
        roster: who is which client.
        timeout: seconds that a round waits for replies.
        arrived: is called before each round, when the clients of the round are there.
        poll: seconds between two looks for replies.
    """

    def __init__(
        self, roster: Roster, *, timeout: float, arrived: Callable[[], None] = lambda: None, poll: float = POLL
    ) -> None:
        """Begin with nothing sent."""
        self.roster, self.timeout, self.arrived, self.poll = roster, timeout, arrived, poll
        self._inner = roster.grid
        self._sent: dict[str, Message] = {}
        self.used: dict[int, int] = {}
        """Client -> the last round in which a reply of it counted: what it kept after a later one is void."""
        self.report = RoundReport()

    # ---- what Flower asks of a grid ----------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Take another run's information."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """Give the information of the run."""
        return self._inner.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message to a client."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Give every client that is there, and wait for them where too few are.

        Raises:
            RoundStoppedError: too few within the time; the message names who is missing.
        """
        here = self.roster.present()
        self.arrived()
        return here

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages to clients that are there."""
        return self._push(list(messages), None)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Give the replies that have come, as replies of clients."""
        found = []
        for reply in self._inner.pull_messages(list(message_ids)):
            asked = self._sent.pop(reply.metadata.reply_to_message_id, None)
            if asked is not None:
                found.append(self._checked(reply, asked))
        return found

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and give a reply for each: the client's own, or an error that says what became of it.

        What a node has not begun by the deadline it is not to begin any more: a SuperNode works through its messages
        one after another, and one that was slow once would spend the rounds after that on rounds that are over.
        """
        asked = list(messages)
        self._begin(asked)
        there = [m for m in asked if self.roster.member(m.metadata.dst_node_id) is not None]
        seconds = self.timeout if timeout is None else min(timeout, self.timeout)
        deadline = time.monotonic() + seconds
        left = dict(zip(self._push(there, seconds + SLACK), there, strict=True)) if there else {}
        replies: dict[int, Message] = {}
        while left:
            for reply in self.pull_messages(list(left)):
                left.pop(reply.metadata.reply_to_message_id, None)
                replies[reply.metadata.src_node_id] = reply
            if left and time.monotonic() >= deadline:
                break
            if left:
                time.sleep(self.poll)
        for key in left:  # an answer that comes after the deadline belongs to no round
            self._sent.pop(key, None)
        late = f"no answer within the {seconds:g} s that the round waits"
        for message in asked:
            client = message.metadata.dst_node_id
            if client not in replies:
                gone = self.roster.member(client) is None
                failure = Failure(client, "its node has gone", "lost") if gone else Failure(client, late, "late")
                replies[client] = self._failed(message, failure)
        return self._reported([replies[message.metadata.dst_node_id] for message in asked])

    # ---- saved state -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, object]:
        """Give what a run that goes on has to know; what clients keep stays with them."""
        return {**self.roster.state_dict(), "used": dict(self.used)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.roster.load_state_dict(state)
        self.used = dict(state["used"])

    # ---- steps -------------------------------------------------------------------------------------------------

    def _begin(self, messages: Sequence[Message]) -> None:
        before, self.report = self.report, RoundReport()
        if before.preliminary:  # the gradients that some algorithms ask for before they train
            self.report.bytes_down, self.report.bytes_up = before.bytes_down, before.bytes_up
        self.report.preliminary = any(m.metadata.message_type == GRADIENT_QUERY for m in messages)
        self.report.bytes_down += sum(_size(message.content) for message in messages)

    def _push(self, asked: Sequence[Message], lives: float | None) -> list[str]:
        """Send messages to clients that are there; Flower drops what no node took within the seconds that they live."""
        ids = list(self._inner.push_messages([self._addressed(message, lives) for message in asked]))
        self._sent.update(zip(ids, asked, strict=True))
        return ids

    def _addressed(self, message: Message, lives: float | None) -> Message:
        """Give a message to a client as one to its node; records are shared, not copied."""
        client = message.metadata.dst_node_id
        member = self.roster.member(client)
        if member is None:
            raise ValueError(f"client {client} is not there")
        terms = replace(self.roster.terms, client=client, used=self.used.get(client, 0)).record()
        content = RecordDict({**message.content, TERMS: terms})
        meta = message.metadata
        ttl = meta.ttl if lives is None else min(meta.ttl, lives)
        return Message(content, member.node, meta.message_type, ttl=ttl, group_id=meta.group_id)

    def _checked(self, reply: Message, asked: Message) -> Message:
        """Give a node's reply as its client's, or the error that it amounts to."""
        client = asked.metadata.dst_node_id
        reply = flower.from_node(reply, client)
        if reply.has_error():
            self.report.failures.append(Failure(client, _reason(reply)))
            return reply
        member = self.roster.member(client)
        told = _metrics(reply).get(NUM_EXAMPLES)
        announced = None if member is None else member.examples
        most = 1 if announced is None else announced
        training = reply.metadata.message_type.split(".")[0] == MessageType.TRAIN
        if training and isinstance(told, int | float) and told > most:
            reason = f"it reports {told:g} examples and announced {'none' if announced is None else announced}"
            self.report.failures.append(Failure(client, reason, "rejected"))
            return flower.as_error(reply, f"client {client}: {reason} [rejected]")
        if asked.metadata.message_type == MessageType.TRAIN:
            self.used[client] = round_of(asked.content)
        return reply

    def _failed(self, message: Message, failure: Failure) -> Message:
        self.report.failures.append(failure)
        text = f"client {failure.client}: {failure.reason} [{failure.kind}]"
        return flower.unsent_error(message, failure.client, text)

    def _reported(self, replies: list[Message]) -> list[Message]:
        good = [reply for reply in replies if not reply.has_error()]
        self.report.bytes_up += sum(_size(reply.content) for reply in good)
        rows = []
        for reply in good:
            numbers = {name: float(v) for name, v in _metrics(reply).items() if isinstance(v, int | float)}
            rows.append({"client": reply.metadata.src_node_id, **numbers})
        shared = [name for name in rows[0] if all(name in row for row in rows)] if rows else []
        self.report.members = {name: [row[name] for row in rows] for name in shared}
        return replies


def _metrics(reply: Message) -> MetricRecord:
    return next(iter(reply.content.metric_records.values()), MetricRecord())


def _size(content: RecordDict) -> int:
    return sum(len(a.data) for r in content.values() if isinstance(r, ArrayRecord) for a in r.values())


def _reason(reply: Message) -> str:
    """Give the reason of an error without the wrapping of Flower's processes."""
    text = reply.error.reason or f"error {reply.error.code}"
    if text.startswith("<class '") and ":<'" in text:
        name, _, rest = text.removeprefix("<class '").partition("'>:<'")
        text = f"{name.rpartition('.')[2]}: {rest.removesuffix(chr(39) + '>')}"
    return text
