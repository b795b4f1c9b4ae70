"""Any third-party Flower ClientApp on our engine, message by message, on the same workers."""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.app.metadata import Metadata
from flwr.clientapp import ClientApp

from fedmomentum.errors import UserError
from fedmomentum.events import Failure
from fedmomentum.simulation import flower
from fedmomentum.simulation.executor import Executor, Lost
from fedmomentum.simulation.grid import BaseGrid, RoundReport


@dataclass(frozen=True)
class AppTask:
    """One message to one node; the content it shares with the round's other messages travels apart."""

    metadata: Metadata
    context: Context


@dataclass(frozen=True)
class AppResult:
    """A node's reply, and what it left in its context; or why there is none."""

    content: RecordDict | None
    state: RecordDict | None
    error: str | None = None


class AppWorker:
    """Runs a ClientApp, given as an object or as ``package.module:app``."""

    def __init__(self, app: ClientApp | str, *, threads: int = 1) -> None:
        """Load the app once."""
        import torch

        torch.set_num_threads(threads)
        flower.adopt_identity(1)
        self.app = load_app(app) if isinstance(app, str) else app

    def run(self, task: AppTask, payload: RecordDict) -> AppResult:
        """Hand one message to the app."""
        message = flower.addressed(payload, task.metadata)
        try:
            reply = self.app(message, task.context)
        except Exception as error:  # the node's failure is its own: the round goes on
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{os.path.basename(where.filename)}:{where.lineno}"  # noqa: PTH119 - a name, not a path
            return AppResult(None, None, f"{type(error).__name__}: {error} ({place})")
        if reply.has_error():
            return AppResult(None, task.context.state, reply.error.reason)
        return AppResult(reply.content, task.context.state)


def load_app(name: str) -> ClientApp:
    """Import a ClientApp by ``package.module:attribute``.

    Raises:
        UserError: the module or the attribute is missing, or it is no ClientApp.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"client app '{name}': {error}. Write package.module:app.") from error
    if not isinstance(found, ClientApp):
        raise UserError(f"client app '{name}' is a {type(found).__name__}, not a flwr.clientapp.ClientApp")
    return found


class AppGrid(BaseGrid):
    """Simulated nodes that each run a Flower ClientApp, with a context of their own across rounds.

    Args:
        executor: runs messages; its workers are :class:`AppWorker`.
        clients: number of nodes; node ``i`` gets ``partition-id: i`` and ``num-partitions`` in its node config.
        run_config: the run config that the app reads.
        node_config: further entries of every node's config.
    """

    def __init__(
        self,
        executor: Executor,
        clients: int,
        *,
        run_config: Mapping[str, Any] | None = None,
        node_config: Mapping[str, Any] | None = None,
    ) -> None:
        """Register the nodes."""
        super().__init__(clients)
        self.executor = executor
        self._run_config, self._node_config = dict(run_config or {}), dict(node_config or {})
        self._states: dict[int, RecordDict] = {}

    def _context(self, node: int) -> Context:
        config = self._node_config | {"partition-id": node, "num-partitions": len(self._nodes)}
        return Context(
            run_id=self._run_id,
            node_id=node,
            node_config=config,
            state=self._states.get(node, RecordDict()),
            run_config=self._run_config,
        )

    def _work(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        self.report = RoundReport()
        groups: dict[int, list[Message]] = {}
        for message in messages:
            groups.setdefault(id(message.content), []).append(message)
        replies: list[Message] = []
        for group in groups.values():
            tasks = [AppTask(m.metadata, self._context(m.metadata.dst_node_id)) for m in group]
            results = self.executor.run(tasks, group[0].content, timeout=timeout)
            for message, result in zip(group, results, strict=True):
                replies.append(self._reply(message, result))
        return replies

    def _reply(self, message: Message, result: AppResult | Lost) -> Message:
        node = message.metadata.dst_node_id
        if isinstance(result, Lost):
            self.report.failures.append(Failure(node, result.reason, result.kind))
            return flower.error_reply(message, f"node {node}: {result.reason} [{result.kind}]")
        if result.state is not None:
            self._states[node] = result.state
        if result.content is None:
            self.report.failures.append(Failure(node, result.error or "gave no reply"))
            return flower.error_reply(message, f"node {node}: {result.error}")
        for record in result.content.metric_records.values():
            self.report.members.setdefault("client", []).append(node)
            for name, value in record.items():
                if isinstance(value, int | float):
                    self.report.members.setdefault(name, []).append(float(value))
            break
        return flower.reply(message, result.content)
