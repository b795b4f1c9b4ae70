"""How clients of a block are grouped to be stacked, and all that they need before the model of the round is there.

None of it depends on the model, so a worker that waits for one can have it ready (:meth:`Groups.ahead`). Whether it did
changes no result: what is ready is used for the very block that it was made for, and is what would be made then.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum.clients.batches import Frame, StackedPlan, pad, plans
from fedmomentum.clients.block import BlockTask
from fedmomentum.clients.dual import Dual
from fedmomentum.clients.examples import Examples
from fedmomentum.clients.gram import Grams, Holdings, Inner, Own, Seen, most_kept
from fedmomentum.clients.linear import Inputs
from fedmomentum.clients.native import Batches, Native
from fedmomentum.clients.outputs import Steps
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.streams import Streams

STACK_BYTES = 8 << 20
"""Parameters that are stacked at a time: past the share of the cache that a core has, operations wait for memory."""

Form = Literal["native", "dual", "stacked"]
"""How clients of a group train: in C, with the first layer in dual form, or stacked with weights of their own."""


@dataclass(frozen=True)
class Group:
    """Clients that are stacked together, in falling order of their steps."""

    clients: list[int]
    plans: list[NDArray[np.int64]]
    counts: list[int]
    form: Form


@dataclass(frozen=True)
class Stage:
    """What a group needs to train in dual form, but the model that it starts from."""

    inner: Inner
    stacked: StackedPlan
    labels_SKB: Tensor
    share_K: Tensor
    """Weight of each client in the mean."""
    stretch: int
    steps: Steps | None
    """Of a network of one layer."""


class _Draft(NamedTuple):
    """What plans of batches have in common with those of another round, and their clients' weights in the mean."""

    frame: Frame
    share_K: Tensor


@dataclass(frozen=True)
class _Block:
    """What decides how a block is grouped and what its clients see."""

    round: int
    clients: tuple[int, ...]
    effort: tuple[float, ...] | None
    uniform: bool
    only_mean: bool


class Groups:
    """Groups the clients of blocks.

    Args:
        spec: what clients do.
        examples: of all clients.
        dual: form of the network, if it has one.
        native: form of the network, if it has one.
        size: bytes of the parameters.
    """

    def __init__(
        self, spec: ClientSpec, examples: Examples, dual: Dual | None, native: Native | None, size: int
    ) -> None:
        """Nothing is ready yet."""
        self.spec, self.examples, self._dual, self._native, self._size = spec, examples, dual, native, size
        if dual is not None:
            most = most_kept(examples.data.sizes, dual.units, spec.gram_memory)
            self._grams = Grams(examples, bias=dual.first.bias is not None, most=most)
        self._held: tuple[tuple[int, ...], Holdings] | None = None
        self._draft: tuple[Hashable, _Draft] | None = None
        self._last: tuple[Hashable, Batches] | None = None
        self._cuts: tuple[_Block, list[tuple[list[int], Form]]] | None = None
        self._counts: tuple[tuple[int, ...], dict[int, int]] = (), {}
        self._streams = Streams(spec.seed, "batches")
        self._first: _Block | None = None
        """The first block of the last round here."""
        self._again = False
        self._ready: tuple[_Block, list[Group], Stage | Batches | None] | None = None

    def of(self, task: BlockTask, *, only_mean: bool) -> Iterator[tuple[Group, Stage | Batches | None]]:
        """Give the groups of a block's clients that have examples, with what those need that do not train stacked.

        Args:
            task: the block.
            only_mean: whether nothing but the mean of its clients' models is asked for; else all are stacked.
        """
        block = _Block(task.round, task.clients, task.effort, task.uniform, only_mean)
        if self._first is None or self._first.round != block.round:
            self._again = self._first is not None and self._first.clients == block.clients
            self._first = block
        ready, self._ready = self._ready, None
        if ready is not None and ready[0] == block:
            _, groups, stage = ready
        else:
            groups, stage = self._cut(block), None
        for group in groups:
            yield group, stage or self._stage(block, group)
            stage = None

    def counts(self, clients: tuple[int, ...]) -> Mapping[int, int]:
        """Give the training examples of those clients that have some."""
        if self._counts[0] != clients:
            held = self.examples.data.sizes[list(clients)].tolist()
            self._counts = clients, {client: n for client, n in zip(clients, held, strict=True) if n}
        return self._counts[1]

    def ahead(self) -> None:
        """Prepare the first block of the next round, if it is likely to be that of this one: it was the round before.

        Only the first group gets its stage, which may hold copies of examples.
        """
        if self._first is None or not self._again or self._first.effort is not None:
            return
        self._again = False
        block = replace(self._first, round=self._first.round + 1)
        groups = self._cut(block)
        self._ready = block, groups, self._stage(block, groups[0]) if groups else None

    def _cut(self, block: _Block) -> list[Group]:
        """Draw batches, and order clients by their number of steps: those still at work at any step are the first."""
        counts = self.counts(block.clients)
        effort = None
        if block.effort is not None:
            effort = [e for client, e in zip(block.clients, block.effort, strict=True) if client in counts]
        drawn = plans(self.spec, counts, self._streams, round=block.round, effort=effort)
        like = replace(block, round=0)
        if self._cuts is None or self._cuts[0] != like:
            clients = sorted(drawn, key=lambda c: -len(drawn[c]))  # stable: those alike stay in the order of the task
            self._cuts = like, list(self._together(clients, counts, drawn, only_mean=block.only_mean))
        return [Group(some, [drawn[c] for c in some], [counts[c] for c in some], form) for some, form in self._cuts[1]]

    def _together(
        self,
        clients: list[int],
        counts: Mapping[int, int],
        plans: Mapping[int, NDArray[np.int64]],
        *,
        only_mean: bool,
    ) -> Iterator[tuple[list[int], Form]]:
        """Cut clients into those that train together, each group with its form.

        A group is no larger than what the cache holds, and in dual form its clients hold alike many examples: each is
        given room for as many as the largest. In C they come one after another.
        """
        dual, native = (self._dual, self._native) if only_mean else (None, None)
        alike: list[tuple[list[int], Form]] = []
        serves: dict[tuple[int, tuple[int, ...]], Form] = {}
        for client in clients:
            n, shape = counts[client], plans[client].shape
            form = serves.get((n, shape))
            if form is None:
                form = serves[n, shape] = self._fastest(dual, native, n, shape)
            if not alike or alike[-1][1] != form or (form == "dual" and 2 * n <= counts[alike[-1][0][0]]):
                alike.append(([], form))
            alike[-1][0].append(client)
        for group, form in alike:
            most = max(counts[client] for client in group)
            width = len(group)  # in C
            if form == "stacked":
                width = max(1, STACK_BYTES // max(self._size, 1))
            elif form == "dual" and dual is not None:
                width = dual.width(most)
            even = -(-len(group) // -(-len(group) // width))
            for begin in range(0, len(group), even):
                yield group[begin : begin + even], form

    def _fastest(self, dual: Dual | None, native: Native | None, examples: int, shape: tuple[int, ...]) -> Form:
        """Give the form for a client of so many examples and a plan of this shape."""
        steps, batch = shape
        if native is not None and native.pays(batch):
            return "native"
        if dual is not None and (examples <= self._grams.most or dual.pays(examples, steps / -(-examples // batch))):
            return "dual"
        return "stacked"

    def _stage(self, block: _Block, group: Group) -> Stage | Batches | None:
        """Put clients side by side; None where they are stacked, which begins with their inputs."""
        if group.form == "native":
            return self._batches(block, group)
        if self._dual is None or group.form == "stacked":
            return None
        passes = [-(-len(p) // -(-n // p.shape[1])) for p, n in zip(group.plans, group.counts, strict=True)]
        inner: Inner
        steps = None
        if self._dual.above and max(group.counts) > self._grams.most and max(passes) == 1:
            x, y, rows = self.examples.block(group.clients, group.plans)
            stacked = StackedPlan.of(rows, x)
            chosen = stacked.rows_SKB.transpose(0, 1).flatten(1)
            seen = x.index_select(0, chosen.reshape(-1)).view(*chosen.shape, -1)
            inner = Seen(seen, pad(rows), bias=self._dual.first.bias is not None)
            share_K, labels_SKB = shares(block, group).to(x), y[stacked.rows_SKB]
        else:
            held = self._holdings(group)
            table = pad(group.plans)
            frame, share_K = self._drafted(block, group, table, held)
            inner = own = Own(held, table, frame)
            stacked = StackedPlan(own.to(own.rows_SKB), frame)
            labels_SKB = held.labels_R.index_select(0, stacked.rows_SKB.view(-1)).view(stacked.rows_SKB.shape)
            if not self._dual.above:
                steps = Steps(own, stacked, labels_SKB, share_K, self._dual.units)
        return Stage(inner, stacked, labels_SKB, share_K, -(-len(stacked.rows_SKB) // max(passes)), steps)

    def _batches(self, block: _Block, group: Group) -> Batches:
        """Give what clients see in C."""
        like = (block.uniform, tuple(group.clients))
        if self._last is None or self._last[0] != like:
            self._last = None  # it may hold copies of examples
            x, y, starts = self.examples.own(group.clients)
            self._last = like, Batches.of(x, y, starts, shares(block, group))
        return self._last[1].with_plans(group.plans)

    def _holdings(self, group: Group) -> Holdings:
        """Give what clients hold, again where they were the last ones."""
        clients = tuple(group.clients)
        if self._held is not None and self._held[0] == clients:
            return self._held[1]
        self._held = None  # it may hold copies of examples
        x, y, starts = self.examples.own(clients)
        x, sizes, products = x.flatten(1), np.array(group.counts, np.int64), self._grams.of(clients)
        held = Holdings(Inputs(x), y, starts, sizes, products)
        if sizes.max() <= self._grams.most:
            self._held = clients, held
        return held

    def _drafted(self, block: _Block, group: Group, table: NDArray[np.int64], held: Holdings) -> _Draft:
        """Give what a group's plans have in common with those of the round before, if only the batches are others."""
        like = (block.uniform, tuple(group.counts), tuple(plan.shape for plan in group.plans), held.x.device)
        if self._draft is None or self._draft[0] != like:
            frame = Frame.of(table, held.products.numbers)
            self._draft = like, _Draft(frame, shares(block, group).to(frame.weights_SKB))
        return self._draft[1]


def shares(block: _Block, group: Group) -> Tensor:
    """Give the weight of each client in the mean, in float64."""
    weights = torch.tensor([1.0 if block.uniform else float(n) for n in group.counts], dtype=torch.float64)
    return weights / weights.sum()
