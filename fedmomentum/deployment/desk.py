"""Where a node does what it is asked: data are read, and a network is built, when they are not there from before."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flwr.app import RecordDict

from fedmomentum.deployment.handover import Asked, Done
from fedmomentum.deployment.node import Node, Reader
from fedmomentum.deployment.settings import Settings
from fedmomentum.deployment.terms import ANSWER, Answer, Terms
from fedmomentum.errors import UserError

if TYPE_CHECKING:
    from fedmomentum.clients.worker import Worker
    from fedmomentum.scenario import LoadedScenario

T = TypeVar("T")


class Last(Generic[T]):
    """The last thing that was made, and what it was made for."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._made: tuple[Hashable, T] | None = None

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Give the last thing if it was made for this; else make one in its place."""
        if self._made is None or self._made[0] != key:
            self._made = None  # two do not have to fit into memory
            self._made = key, make()
        return self._made[1]


class Desk:
    """Works for one node and one run, message by message; the same whether it has worked before or not."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._scenario: Last[LoadedScenario] = Last()
        self._worker: Last[Worker] = Last()
        self._reader = Reader()

    def work(self, asked: Asked) -> Done:
        """Do what a message asks for.

        Raises:
            UserError: the node's config, its data or its disk are not as they should be (asked whether it can take
                part, it says so in its answer).
            ClientFailed: its training failed.
        """
        terms = Terms.of(asked.content)
        if asked.kind == "join":
            try:
                answer = self._node(asked, terms).answer()
            except UserError as error:
                answer = Answer(refusal=str(error))
            return Done(RecordDict({ANSWER: answer.record()}), asked.state)
        return self._train(asked, terms)

    def prepare(self) -> None:
        """Import what the next message will need, now that nobody waits."""
        importlib.import_module("fedmomentum.build")
        importlib.import_module("fedmomentum.clients.app")

    def _train(self, asked: Asked, terms: Terms) -> Done:
        from fedmomentum.clients.app import Seat, round_of, work
        from fedmomentum.deployment.memory import ContextMemory, DiskMemory, Memory, after, keep

        assert asked.kind != "join"
        node = self._node(asked, terms)
        memory: Memory = DiskMemory(node.state, terms) if node.state else ContextMemory(asked.state, terms)
        seat = Seat(self._seated(node), terms.client, node.counts)
        content, kept = work(asked.content, after(memory, terms.used), seat, asked.kind)
        if asked.kind == "train":
            keep(memory, round_of(asked.content), kept)
        return Done(content, asked.state)

    def _node(self, asked: Asked, terms: Terms) -> Node:
        config: dict[str, Any] = dict(asked.run_config)
        loaded = self._scenario.get(repr(sorted(config.items())), lambda: Settings.read(config).load())
        return Node(asked.node_config, loaded, terms, self._reader)

    def _seated(self, node: Node) -> Worker:
        from fedmomentum.build import build
        from fedmomentum.clients.worker import Worker

        terms = node.terms

        def make() -> Worker:
            federation = build(node.scenario, data=node.data(terms.client))
            return Worker(federation.spec, federation.data)

        key = (terms.arm, terms.client, terms.shape, terms.dtype, terms.classes, node.stamp())
        return self._worker.get(key, make)
