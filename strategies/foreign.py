"""Any Flower strategy as one of ours: our cohorts, and random numbers that a seed fixes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmomentum.errors import UserError
from fedmomentum.strategies import attributes
from fedmomentum.strategies.cohort import Cohort
from fedmomentum.strategies.nodes import choose
from fedmomentum.streams import key

_MOST_LOOKS = 3  # Flower's strategies look again every second, for ever, until there are as many nodes as they want


class Foreign(Strategy):
    """Lets a strategy of another make see the nodes of its round alone, and draw the numbers that a seed fixes.

    Whatever it samples by itself it samples among those nodes; Flower's own take them all by default. Python's and
    numpy's global generators, which such strategies draw from, hold a stream of the round while it is at work, and are
    put back after it.

    Args:
        strategy: the one to drive.
        train: chooses who trains.
        evaluate: chooses who evaluates; None: nobody does.
        seed: of the streams.
    """

    def __init__(self, strategy: Strategy, *, train: Cohort, evaluate: Cohort | None = None, seed: int = 0) -> None:
        """Take a strategy."""
        super().__init__()
        self.strategy, self.train, self.evaluate, self.seed = strategy, train, evaluate, seed

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let it make the messages to the cohort."""
        nodes = choose(self.train, server_round, sorted(grid.get_node_ids()))
        if not nodes:
            return []
        with self._drawing("configure", server_round):
            return list(self.strategy.configure_train(server_round, arrays, config, _Seats(grid, nodes)))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let it aggregate the replies, in the order of their nodes."""
        with self._drawing("aggregate", server_round):
            return self.strategy.aggregate_train(server_round, _sorted(replies))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let it make the messages to those who evaluate."""
        if self.evaluate is None:
            return []
        nodes = choose(self.evaluate, server_round, sorted(grid.get_node_ids()))
        with self._drawing("configure-evaluate", server_round):
            return list(self.strategy.configure_evaluate(server_round, arrays, config, _Seats(grid, nodes)))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Let it aggregate metrics."""
        with self._drawing("aggregate-evaluate", server_round):
            return self.strategy.aggregate_evaluate(server_round, _sorted(replies))

    def state_dict(self) -> dict[str, Any] | None:
        """Give what it says of its state, else its attributes; None where they are no plain data, so it cannot go on.

        Its attributes are what Flower's own strategies carry from round to round.
        """
        if hasattr(self.strategy, "state_dict"):
            return {"own": self.strategy.state_dict()}
        try:
            return {"attributes": attributes.collect(self.strategy)}
        except TypeError:
            return None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        if "own" in state:
            self.strategy.load_state_dict(state["own"])  # type: ignore[attr-defined]
        else:
            attributes.restore(self.strategy, state["attributes"])

    def summary(self) -> None:
        """Let it say what it is."""
        self.strategy.summary()

    @contextmanager
    def _drawing(self, what: str, server_round: int) -> Iterator[None]:
        before, numpy_before = random.getstate(), np.random.get_state()
        number = key(self.seed, f"foreign-{what}", round=server_round)
        random.seed(number)
        np.random.seed(number % 2**32)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)


class _Seats(Grid):
    """A grid of which a strategy sees some of the nodes."""

    def __init__(self, grid: Grid, nodes: Sequence[int]) -> None:
        self._grid, self._nodes, self._looks = grid, list(nodes), 0

    def get_node_ids(self) -> Iterable[int]:
        """Give the nodes of the cohort; a strategy that keeps looking waits for more, which will never come.

        Raises:
            UserError: it looks for more nodes than there are.
        """
        self._looks += 1
        if self._looks > _MOST_LOOKS:
            raise UserError(
                f"the strategy waits for more nodes than the {len(self._nodes)} of the round; give it smaller "
                "min_train_nodes, min_evaluate_nodes and min_available_nodes in strategy.options"
            )
        return list(self._nodes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def set_run(self, *args: Any, **kwargs: Any) -> None:
        """As the grid has it."""
        self._grid.set_run(*args, **kwargs)

    @property
    def run(self) -> Any:
        """As the grid has it."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """As the grid has it."""
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As the grid has it."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As the grid has it."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """As the grid has it."""
        return self._grid.send_and_receive(messages, timeout=timeout)


def _sorted(replies: Iterable[Message]) -> list[Message]:
    return sorted(replies, key=lambda message: message.metadata.src_node_id)
