"""A federation in this process: nodes with random ids that each run the deployed ClientApp, behind a Flower Grid."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import Any

from flwr.app import Context, Message, RecordDict

from fedmomentum import scenario as scenarios
from fedmomentum.deployment import clientapp
from fedmomentum.deployment.serverapp import Serving
from fedmomentum.deployment.settings import Settings
from fedmomentum.deployment.wire import Announcer
from fedmomentum.running import Running
from fedmomentum.simulation import flower
from fedmomentum.simulation.grid import BaseGrid


class Node:
    """One SuperNode: its config, what it keeps, and what is done to it."""

    def __init__(self, number: int, **config: Any) -> None:
        self.number, self.config = number, {key.replace("_", "-"): value for key, value in config.items()}
        self.state = RecordDict()
        self.mute = False
        """It is there, and never answers what it is asked to train."""
        self.tamper: Any = None
        """Changes a reply before it is sent."""
        self.takes: list[float] = []
        """Seconds for each message that it is to train on, the last for all that follow; empty: none at all."""
        self.busy: tuple[str, float] | None = None
        """The message that it is at, and when it is done with it."""


class Net(BaseGrid):
    """Flower's side: it knows nodes by id, and gives replies as they come."""

    def __init__(
        self,
        nodes: list[Node] | dict[int, Node],
        run_config: dict[str, Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(0)
        self.clock = clock
        self._sent: dict[str, float] = {}
        self._done: dict[str, Message] = {}
        self.nodes = nodes if isinstance(nodes, dict) else {node.number: node for node in nodes}
        self.run_config = run_config
        self.types: list[str] = []
        self._ids = count()

    def get_node_ids(self):
        return list(self.nodes)

    def push_messages(self, messages):
        ids = []
        for message in messages:
            flower.stamp(message, f"net-{next(self._ids)}")
            self._pending[message.metadata.message_id] = message
            self._sent[message.metadata.message_id] = self.clock()
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids):
        found = []
        for node in self.nodes.values():
            self._work_on(node)
        for key in list(message_ids):
            reply = self._done.pop(key, None)
            if reply is None and key in self._pending and not self._at(self._pending[key]).takes:
                reply = self._answer(self._pending[key])
            if reply is not None:
                self._pending.pop(key, None)
                found.append(reply)
        return found[::-1]  # Flower gives them in no order

    def _at(self, message: Message) -> Node:
        return self.nodes.get(message.metadata.dst_node_id, Node(0))

    def _work_on(self, node: Node) -> None:
        """Let a slow node do what one does: message after message in the order in which they came, but none expired."""
        while node.takes:
            now = self.clock()
            if node.busy is not None:
                key, until = node.busy
                if now < until:
                    return
                if (reply := self._answer(self._pending.pop(key))) is not None:
                    self._done[key] = reply
                node.busy = None
            mine = [key for key, message in self._pending.items() if message.metadata.dst_node_id == node.number]
            alive = [key for key in mine if self._sent[key] + self._pending[key].metadata.ttl > now]
            if not alive:
                return
            query = self._pending[alive[0]].metadata.message_type == "query"
            lasts = 0.0 if query else node.takes.pop(0) if len(node.takes) > 1 else node.takes[0]
            node.busy = alive[0], now + lasts

    def _answer(self, message: Message) -> Message | None:
        node = self.nodes.get(message.metadata.dst_node_id)
        kind = message.metadata.message_type
        if node is None or (node.mute and kind != "query"):
            return None
        self.types.append(kind)
        context = Context(1, node.number, node.config, node.state, self.run_config)
        try:
            reply = clientapp.app(message, context)
        except Exception as error:  # as Flower's process does
            return flower.error_reply(message, f"{type(error)}:<'{error}'>")
        if node.tamper is not None and kind.startswith("train"):
            reply = node.tamper(reply)
        return reply

    def _work(self, messages, timeout):
        raise AssertionError("a deployed grid pushes and pulls")


def nodes(clients: int, **config: Any) -> list[Node]:
    """Give nodes whose ids rise the other way round than the numbers of their clients."""
    return [Node(9000 - 7 * i, partition_id=i, num_partitions=clients, **config) for i in range(clients)]


def serve(path, here: list[Node] | dict[int, Node], *, listeners=(), clock=time.monotonic, **settings: Any):
    """Run a scenario on the nodes as the deployed app does; give the result and the lines of its log."""
    wanted = Settings(**{"scenario": str(path), "node_timeout": 0.2, "round_timeout": 0.2, **settings})
    lines: list[str] = []
    serving = Serving(
        wanted.load(),
        wanted,
        Net(here, wanted.config(), clock),
        Announcer(write=lines.append, followed=bool(wanted.run), largest=2**20),
    )
    serving.listeners += listeners
    return serving.go(), lines


def simulate(path, out, *overrides: str):
    """Run the same scenario in this process, one client after another, each a block of its own."""
    loaded = scenarios.load(path, ["engine.name=inline", *overrides])
    return Running(loaded, [], out=out, pictures=False).go()
