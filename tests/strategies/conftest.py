"""A Flower grid in one process: clients are functions, and nothing needs a SuperLink."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

Client = Callable[[Message], RecordDict | Error | None]


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    """Flower refuses to build a message outside a task: be one."""
    for name in ("_run_id", "_node_id", "_task_id"):
        assert hasattr(TaskIdentity, name), f"Flower moved TaskIdentity.{name}"
        monkeypatch.setattr(TaskIdentity, name, 1)


class FunctionGrid(Grid):
    """Answers each message by calling the node's function; None is a client that never answers."""

    def __init__(self, clients: Mapping[int, Client], arrival: Callable[[list[Message]], list[Message]] = list) -> None:
        self.clients = dict(clients)
        self.arrival = arrival
        self.sent: list[list[Message]] = []

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.clients)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        self.sent.append(list(messages))
        replies = []
        for message in self.sent[-1]:
            answer = self.clients[message.metadata.dst_node_id](message)
            if answer is not None:
                replies.append(reply_to(message, answer))
        return self.arrival(replies)


def reply_to(message: Message, answer: RecordDict | Error) -> Message:
    message.metadata.__dict__["_message_id"] = f"to {message.metadata.dst_node_id}"
    return Message(answer, reply_to=message)


def record_of(arrays: Mapping[str, Any]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(x)) for name, x in arrays.items()})


def arrays_of(record: ArrayRecord) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in record.items()}


def content_of(arrays: Mapping[str, Any], weight: Any = 1, **metrics: Any) -> RecordDict:
    return RecordDict({"arrays": record_of(arrays), "metrics": MetricRecord({"num-examples": weight, **metrics})})


@pytest.fixture
def grid_of():
    return FunctionGrid


@pytest.fixture
def record():
    return record_of


@pytest.fixture
def arrays():
    return arrays_of


@pytest.fixture
def content():
    return content_of


@pytest.fixture
def training():
    """Make a client of a function ``(arrays, round) -> arrays``, with its weight."""

    def make(
        step: Callable[[dict[str, np.ndarray], int], Mapping[str, Any]], weight: Any = 1, **metrics: Any
    ) -> Client:
        def client(message: Message) -> RecordDict:
            if message.metadata.message_type == "evaluate":
                return RecordDict({"metrics": MetricRecord({"num-examples": weight, **metrics})})
            server_round = message.content["config"]["server-round"]
            return content_of(step(arrays_of(message.content["arrays"]), server_round), weight, **metrics)

        return client

    return make


@pytest.fixture
def play():
    """Run rounds of training by hand: the arrays after each of them; a round that gives none keeps the old ones."""

    def run(
        strategy: Strategy,
        grid: FunctionGrid,
        start: Mapping[str, Any] | ArrayRecord,
        rounds: Iterable[int],
        config: ConfigRecord | None = None,
    ) -> list[dict[str, np.ndarray]]:
        current = start if isinstance(start, ArrayRecord) else record_of(start)
        history = []
        for server_round in rounds:
            messages = strategy.configure_train(
                server_round, current, ConfigRecord() if config is None else config, grid
            )
            new, _ = strategy.aggregate_train(server_round, grid.send_and_receive(messages))
            current = current if new is None else new
            history.append(arrays_of(current))
        return history

    return run


@pytest.fixture
def answer():
    """Aggregate given answers, a list or by node id, in one round that sent ``model``: (arrays, metrics)."""

    def run(strategy: Strategy, model: Mapping[str, Any], answers: Mapping[int, Any] | list[Any]) -> tuple[Any, Any]:
        by_node = answers if isinstance(answers, Mapping) else dict(enumerate(answers, start=1))
        grid = FunctionGrid({node: (lambda message, content=content: content) for node, content in by_node.items()})
        messages = strategy.configure_train(1, record_of(model), ConfigRecord(), grid)
        new, metrics = strategy.aggregate_train(1, grid.send_and_receive(messages))
        return None if new is None else arrays_of(new), metrics

    return run


def same_bits(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and a[name].tobytes() == b[name].tobytes()
        for name in a
    )


@pytest.fixture
def equal_bits():
    return same_bits


@pytest.fixture
def drifting(training):
    """Ten clients that move the model in their own noisy way, the same way in each replay, with unequal weights."""

    def make(dtype: Any, nodes: int = 10) -> dict[int, Client]:
        def client(node: int) -> Client:
            def step(x: dict[str, np.ndarray], server_round: int) -> dict[str, np.ndarray]:
                rng = np.random.default_rng([node, server_round])
                return {k: (0.9 * v + rng.normal(size=v.shape)).astype(dtype) for k, v in x.items()}

            return training(step, weight=3 * node + 1, loss=1.0 / node)

        return {node: client(node) for node in range(1, nodes + 1)}

    return make


@pytest.fixture
def model():
    def make(dtype: Any) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(7)
        shapes = {"w": (5, 4), "b": (4,), "scale": ()}
        return {name: np.asarray(rng.normal(size=shape), dtype=dtype) for name, shape in shapes.items()}

    return make
