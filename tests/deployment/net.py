"""A federation in this process: nodes with random ids that each run the deployed ClientApp, behind a Flower Grid."""

from __future__ import annotations

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


class Net(BaseGrid):
    """Flower's side: it knows nodes by id, and gives replies as they come."""

    def __init__(self, nodes: list[Node] | dict[int, Node], run_config: dict[str, Any]) -> None:
        super().__init__(0)
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
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids):
        found = []
        for key in list(message_ids):
            reply = self._answer(self._pending[key]) if key in self._pending else None
            if reply is not None:
                del self._pending[key]
                found.append(reply)
        return found[::-1]  # Flower gives them in no order

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


def serve(path, here: list[Node] | dict[int, Node], *, listeners=(), **settings: Any):
    """Run a scenario on the nodes as the deployed app does; give the result and the lines of its log."""
    wanted = Settings(**{"scenario": str(path), "node_timeout": 0.2, "round_timeout": 0.2, **settings})
    lines: list[str] = []
    serving = Serving(
        wanted.load(),
        wanted,
        Net(here, wanted.config()),
        Announcer(write=lines.append, followed=bool(wanted.run), largest=2**20),
    )
    serving.listeners += listeners
    return serving.go(), lines


def simulate(path, out, *overrides: str):
    """Run the same scenario in this process, one client after another, each a block of its own."""
    loaded = scenarios.load(path, ["engine.name=inline", *overrides])
    return Running(loaded, [], out=out, pictures=False).go()
