"""Who takes part in a deployed run: nodes are asked who they are, and from then on go by the number of their client.

Flower gives a node that it does not know a new random id each time it connects. Everything that a run's result depends
on (cohorts, batches, the order of sums) goes by the number of a client, which is the same in a simulation.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedmomentum.deployment.terms import JOIN, TERMS, Answer, Terms
from fedmomentum.simulation.loop import RoundStoppedError

RETRY = 30.0
"""Seconds after which a node that could not take part is asked again: its machine may have been mended meanwhile."""


@dataclass(frozen=True)
class Member:
    """A node that has joined as a client; ``examples`` is None where it does not tell."""

    node: int
    client: int
    examples: int | None


class Roster:
    """Asks nodes who they are, keeps who is there, and says who is missing.

    A node says which client it is (a partition id); one that does not, because it has data of its own, is given a
    number: in the order of node ids for those that are there at the start, later the lowest one that is free.

    Args:
        grid: Flower's own.
        terms: what nodes are told.
        expected: clients that have to be there before the first round.
        least: clients that have to be there before a later one.
        partitions: parts of the scenario's own data set; a node that has one of them has to agree on how many.
        timeout: seconds to wait for them.
        exclude_after: refused replies after which a client is left out; 0: never.
        say: told, in a line, of everyone who comes and goes.
        poll: seconds between two looks.
    """

    def __init__(
        self,
        grid: Grid,
        terms: Terms,
        *,
        expected: int,
        least: int = 1,
        partitions: int,
        timeout: float,
        exclude_after: int = 3,
        say: Callable[[str], None] = print,
        poll: float = 0.25,
    ) -> None:
        """Begin with nobody."""
        self.grid, self.terms, self.say, self.poll = grid, terms, say, poll
        self.expected, self.least, self.partitions, self.timeout = expected, least, partitions, timeout
        self.exclude_after = exclude_after
        self.members: dict[int, Member] = {}
        self.numbers: dict[int, int] = {}
        """Node -> the number that it was given."""
        self.refused: dict[int, tuple[str, float]] = {}
        """Node -> why it cannot take part, and when that was."""
        self.excluded: dict[int, str] = {}
        """Client -> why it takes no part any more."""
        self._asked: set[int] = set()
        self._pending: dict[str, int] = {}
        self._waiting: dict[int, Answer] = {}
        """Nodes that can take part and have no number yet, or one that another node still has."""
        self._strikes: Counter[int] = Counter()
        self._complete = False

    # ---- who is there ------------------------------------------------------------------------------------------

    def present(self) -> list[int]:
        """Give the clients that are there, sorted; wait for them where too few are.

        Raises:
            RoundStoppedError: too few within the time; the message names who is missing and who was refused.
        """
        needed = self.least if self._complete else self.expected
        deadline, told = time.monotonic() + self.timeout, False
        while True:
            self.refresh()
            here = sorted(client for client in self.members if client not in self.excluded)
            if len(here) >= needed:
                self._complete = True
                return here
            if time.monotonic() >= deadline:
                raise RoundStoppedError(self._missing(here, needed))
            if not told:
                self.say(f"waiting up to {self.timeout:g} s for clients: {len(here)} of {needed} are there")
                told = True
            time.sleep(self.poll)

    def member(self, client: int) -> Member | None:
        """Give the node that is a client now, if it is there."""
        return self.members.get(client)

    @property
    def all_tell(self) -> bool:
        """Whether every client tells how many examples it has."""
        return all(member.examples is not None for member in self.members.values())

    def refresh(self) -> None:
        """Ask those who are new, hear what was answered, and forget those who have gone; never waits."""
        nodes = set(self.grid.get_node_ids())
        self._forget(nodes)
        now = time.monotonic()
        new = [n for n in sorted(nodes - self._asked) if n not in self.refused or now - self.refused[n][1] >= RETRY]
        if new:
            content = RecordDict({TERMS: self.terms.record()})
            ids = list(self.grid.push_messages([Message(content, node, JOIN) for node in new]))
            self._asked.update(new)
            self._pending.update(zip(ids, new, strict=True))
        if self._pending:
            for reply in self.grid.pull_messages(list(self._pending)):
                node = self._pending.pop(reply.metadata.reply_to_message_id, None)
                if node is not None:
                    self._hear(node, reply)
        self._seat()

    def strike(self, client: int, reason: str) -> None:
        """Note that a client's reply was refused, and leave the client out when that was once too often."""
        self._strikes[client] += 1
        if self.exclude_after and self._strikes[client] >= self.exclude_after and client not in self.excluded:
            self.excluded[client] = reason
            self.say(
                f"client {client} is left out from now on: {self._strikes[client]} replies refused, last: {reason}"
            )

    # ---- saved state -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, object]:
        """Give what a run that goes on has to know: numbers that were given, and who is left out."""
        return {"numbers": dict(self.numbers), "excluded": dict(self.excluded), "strikes": dict(self._strikes)}

    def load_state_dict(self, state: Mapping[str, Mapping[int, int]]) -> None:
        """Go on from a state."""
        self.numbers = dict(state["numbers"])
        self.excluded = {client: str(reason) for client, reason in state["excluded"].items()}
        self._strikes = Counter(state["strikes"])

    # ---- steps -------------------------------------------------------------------------------------------------

    def _forget(self, nodes: set[int]) -> None:
        for client, member in list(self.members.items()):
            if member.node not in nodes:
                del self.members[client]
                self.say(f"client {client} has gone (node {member.node})")
        self._asked &= nodes
        self._waiting = {node: answer for node, answer in self._waiting.items() if node in nodes}
        self.refused = {node: why for node, why in self.refused.items() if node in nodes}

    def _hear(self, node: int, reply: Message) -> None:
        if reply.has_error():
            self._refuse(node, reply.error.reason or f"error {reply.error.code}")
            return
        try:
            answer = Answer.of(reply.content)
        except ValueError as error:
            self._refuse(node, str(error))
            return
        if answer.refusal:
            self._refuse(node, answer.refusal)
        elif answer.partition >= 0 and answer.partitions not in (-1, self.partitions):
            self._refuse(
                node, f"it splits the data over {answer.partitions} clients, the scenario over {self.partitions}"
            )
        elif answer.partition >= self.partitions:
            self._refuse(node, f"its partition-id is {answer.partition}; the scenario has 0 .. {self.partitions - 1}")
        elif answer.examples == 0 or answer.examples < -1:
            self._refuse(node, f"it announces {answer.examples} examples")
        else:
            self._waiting[node] = answer

    def _refuse(self, node: int, reason: str) -> None:
        if self.refused.get(node, ("", 0.0))[0] != reason:
            self.say(f"node {node} cannot take part: {reason}")
        self.refused[node] = (reason, time.monotonic())
        self._asked.discard(node)

    def _seat(self) -> None:
        """Give a place to those that have a number, and then a number to those that have none."""
        for node, answer in sorted(self._waiting.items()):
            if answer.partition >= 0:
                self._place(node, answer.partition, answer)
            elif (given := self.numbers.get(node)) is not None:
                self._place(node, given, answer)
        if not self._complete and len(self.members) + len(self._waiting) < self.expected:
            return  # numbers go by node id, so all have to be there first
        for node, answer in sorted(self._waiting.items()):
            if answer.partition < 0 and node not in self.numbers:
                taken = self.members.keys() | set(self.numbers.values())
                self.numbers[node] = next(n for n in range(len(taken) + 1) if n not in taken)
                self._place(node, self.numbers[node], answer)

    def _place(self, node: int, client: int, answer: Answer) -> None:
        holder = self.members.get(client)
        if holder is not None:
            return  # until the SuperLink has noticed that the other one is gone
        self.members[client] = Member(node, client, None if answer.examples < 0 else answer.examples)
        del self._waiting[node]
        told = "does not tell how many examples" if answer.examples < 0 else f"{answer.examples} examples"
        self.say(f"client {client} has joined (node {node}, {told})")

    def _missing(self, here: Iterable[int], needed: int) -> str:
        here = list(here)
        text = f"{len(here)} of {needed} clients are there after {self.timeout:g} s (node-timeout)"
        gone = [client for client in range(self.partitions) if client not in here and client not in self.excluded]
        if not self.numbers and gone and needed == self.partitions:  # else any would do
            shown = ", ".join(map(str, gone[:10])) + (f" and {len(gone) - 10} more" if len(gone) > 10 else "")
            text += f"; missing: client{'s' if len(gone) > 1 else ''} {shown}"
        for node, (reason, _) in sorted(self.refused.items()):
            text += f"; node {node} cannot take part: {reason}"
        for node, answer in sorted(self._waiting.items()):
            if answer.partition in self.members:
                text += f"; node {node} says that it is client {answer.partition}, as another node does"
        silent = sorted(self._pending.values())
        if silent:
            text += f"; no answer from node{'s' if len(silent) > 1 else ''} {', '.join(map(str, silent))}"
        return text + ". Start the SuperNodes that are missing, or say with --clients how many there are"
