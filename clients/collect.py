"""What becomes of the clients of a block: accepted into the mean, kept one by one, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum.clients.block import Arrays, BlockResult, BlockTask
from fedmomentum.clients.mean import OffsetSum, RunningMean
from fedmomentum.clients.shelf import Shelf
from fedmomentum.events import Failure
from fedmomentum.protocol import ARRAYS, NUM_EXAMPLES
from fedmomentum.trees import State, Tree, borrowed

Records = dict[str, Tree]
"""The model (``arrays``) and what travels beside it, by record name."""


class Collector:
    """Collects the replies of a block in the order in which clients are added."""

    @classmethod
    def of(cls, task: BlockTask, records: Records, shelf: Shelf | None = None) -> Self:
        """Begin the block of a task that trains from these records; sums of a large model lie on the shelf."""
        origin = records[ARRAYS] if task.fold else None
        return cls(reduce=task.reduce, uniform=task.uniform, origin=origin, shelf=shelf)

    def __init__(
        self, *, reduce: bool, uniform: bool = False, origin: Tree | None = None, shelf: Shelf | None = None
    ) -> None:
        """Begin a block; ``reduce`` keeps one mean instead of every model, weighted by examples or ``uniform``.

        With an ``origin``, the model that was sent, it keeps sums instead, of models as differences from it, on the
        ``shelf`` if there is one.
        """
        self.reduce, self.uniform, self._origin, self._shelf = reduce, uniform, origin, shelf
        self.members: dict[str, list[float]] = {"client": [], NUM_EXAMPLES: []}
        self.failures: list[Failure] = []
        self.memory: dict[int, State] = {}
        self._means: dict[str, RunningMean | OffsetSum] = {}
        self._each: list[dict[str, Arrays]] = []

    def fail(self, client: int, reason: str, kind: str = "error") -> None:
        """Note that a client's work is not used, and why."""
        self.failures.append(Failure(client, reason, kind))

    def add(
        self, client: int, records: Records, examples: float, metrics: Mapping[str, float], memory: State | None = None
    ) -> None:
        """Add one client's reply, unless it holds numbers that are not finite."""
        bad = next(
            (_unfinite(name, x) for tree in records.values() for name, x in tree.items() if not _finite(x)), None
        )
        if bad is not None:
            self.fail(client, bad, "rejected")
            return
        self._note(client, examples, metrics, memory)
        if not self.reduce:
            self._each.append({record: to_arrays(tree) for record, tree in records.items()})
            return
        for record, tree in records.items():
            self._mean(record).add(tree, 1.0 if self.uniform else examples)

    def add_stacked(
        self,
        clients: Sequence[int],
        records_K: Records,
        examples: Sequence[float],
        metrics: Mapping[str, Sequence[float]],
        memory: Sequence[State] | None = None,
        means: Records | None = None,
    ) -> None:
        """Add K clients whose models are stacked ``[K, *shape]``, each checked on its own.

        Args:
            clients: their numbers.
            records_K: what they send.
            examples: that each of them has.
            metrics: columns of K floats.
            memory: what each of them keeps.
            means: tensors that exist only as their weighted mean over these clients, all of which are known to be good.
        """
        reasons = {} if means else _unfinite_of(records_K, len(clients))
        for k, reason in reasons.items():
            self.fail(clients[k], reason, "rejected")
        kept = [k for k in range(len(clients)) if k not in reasons] if reasons else range(len(clients))
        columns = {"client": clients, NUM_EXAMPLES: list(map(float, examples)), **metrics}
        for name, column in columns.items():
            self.members.setdefault(name, []).extend([column[k] for k in kept] if reasons else column)
        if memory:
            self.memory.update((clients[k], memory[k]) for k in kept if memory[k])
        if not self.reduce:
            self._each.extend(
                {r: to_arrays({n: x[k] for n, x in t.items()}) for r, t in records_K.items()} for k in kept
            )
            return
        if not kept:
            return
        weights = [1.0 if self.uniform else float(examples[k]) for k in kept]
        for record, tree in records_K.items():
            chosen = tree if len(kept) == len(clients) else {name: x[kept] for name, x in tree.items()}
            self._mean(record).add_stacked(chosen, weights, (means or {}).get(record))

    def _mean(self, record: str) -> RunningMean | OffsetSum:
        if record not in self._means:
            origin = self._origin if record == ARRAYS else None
            self._means[record] = RunningMean() if self._origin is None else OffsetSum(origin, self._shelf)
        return self._means[record]

    def note(self, client: int, examples: float, metrics: Mapping[str, float]) -> None:
        """Add a client that sends numbers and no model (an evaluation)."""
        self._note(client, examples, metrics, None)

    def _note(self, client: int, examples: float, metrics: Mapping[str, float], memory: State | None) -> None:
        self.members["client"].append(client)
        self.members[NUM_EXAMPLES].append(float(examples))
        for name, value in metrics.items():
            self.members.setdefault(name, []).append(float(value))
        if memory:
            self.memory[client] = memory

    def result(self, index: int) -> BlockResult:
        """Give the block's result, once: the sums make room for it."""
        values = {record: value for record, mean in self._means.items() if (value := mean.value()) is not None}
        arrays = {r: {n: _contiguous(x) for n, x in tree.items()} for r, tree in values.items()} or None
        return BlockResult(
            index=index,
            members=self.members,
            mean=arrays if self._origin is None else None,
            sums=arrays if self._origin is not None else None,
            each=self._each if not self.reduce else None,
            failures=tuple(self.failures),
            memory={client: moved(state, "cpu") for client, state in self.memory.items()},
        )


def _unfinite_of(records_K: Records, clients: int) -> dict[int, str]:
    """Give which of K stacked clients have numbers that are not finite, and where."""
    reasons: dict[int, str] = {}
    for tree in records_K.values():
        for name, x in tree.items():
            if _finite(x):
                continue
            for k in range(clients):
                if k not in reasons and not _finite(x[k]):
                    reasons[k] = _unfinite(name, x[k])
    return dict(sorted(reasons.items()))


def _finite(x: Tensor) -> bool:
    """A finite sum proves finite numbers in one pass; only an infinite one needs the closer look."""
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())


def _unfinite(name: str, x: Tensor) -> str:
    return f"tensor '{name}' holds {'NaN' if bool(torch.isnan(x).any()) else 'infinite'} values after local training"


def _contiguous(x: Tensor) -> NDArray[np.generic]:
    return np.asarray(x.detach().cpu().numpy(), order="C")


def moved(state: State, device: str) -> State:
    """Give a state on a device; tensors that are there already stay the same."""
    return {slot: {name: x.to(device) for name, x in tree.items()} for slot, tree in state.items()}


def to_arrays(tree: Mapping[str, Tensor]) -> Arrays:
    """Give a tree as contiguous numpy arrays in memory of their own."""
    return {name: np.array(x.detach().cpu().numpy(), order="C") for name, x in tree.items()}


def to_records(records: Mapping[str, Arrays], device: str) -> Records:
    """Give records as torch trees; arrays from shared memory stay where they are and must not be written to."""
    return {r: {n: borrowed(a).to(device) for n, a in arrays.items()} for r, arrays in records.items()}
