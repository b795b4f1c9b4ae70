"""How clients of a block are grouped to be stacked, and all that they need before the model of the round is there.

None of it depends on the model, so a worker that waits for one can have it ready (:meth:`Groups.ahead`). Whether it did
changes no result: what is ready is used for the very block that it was made for, and is what would be made then.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum.clients.batches import Frame, StackedPlan, pad, plans
from fedmomentum.clients.block import BlockTask
from fedmomentum.clients.dual import Dual
from fedmomentum.clients.examples import Examples
from fedmomentum.clients.gram import Grams, Holdings, Inner, Own, Seen, most_kept
from fedmomentum.clients.linear import Packed, Plain, packs
from fedmomentum.clients.outputs import Steps
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.streams import Streams

STACK_BYTES = 8 << 20
"""Parameters that are stacked at a time: past the share of the cache that a core has, operations wait for memory."""
PACKED_UNITS, PACKED_FEATURES = 12, 64
"""Outputs, at most, and inputs, at least, of a layer for which packed inputs are faster (benchmarks/vectorize.py)."""
PACKED_FROM = 50
"""First round for which they are packed: that takes as long as they save in so many rounds, which may not come."""


@dataclass(frozen=True)
class Group:
    """Clients that are stacked together, in falling order of their steps."""

    clients: list[int]
    plans: list[NDArray[np.int64]]
    counts: list[int]
    in_dual: bool
    """Whether the dual form is the faster one."""


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
    everyone: bool


class Groups:
    """Groups the clients of blocks.

    Args:
        spec: what clients do.
        examples: of all clients.
        dual: form of the network, if it has one.
        size: bytes of the parameters.
    """

    def __init__(self, spec: ClientSpec, examples: Examples, dual: Dual | None, size: int) -> None:
        """Nothing is ready yet."""
        self.spec, self.examples, self._dual, self._size = spec, examples, dual, size
        if dual is not None:
            most = most_kept(examples.data.sizes, dual.units, spec.gram_memory)
            self._grams = Grams(examples, bias=dual.first.bias is not None, most=most)
            self._packs = most > 0 and packs_pay(dual, examples.data.sizes, spec.gram_memory)
        self._packed: dict[tuple[int, ...], Holdings] = {}
        self._held: tuple[tuple[int, ...], Holdings] | None = None
        self._draft: tuple[Hashable, _Draft] | None = None
        self._cuts: tuple[_Block, list[tuple[list[int], bool]]] | None = None
        self._counts: tuple[tuple[int, ...], dict[int, int]] = (), {}
        self._streams = Streams(spec.seed, "batches")
        self._first: _Block | None = None
        """The first block of the last round here."""
        self._again = False
        self._ready: tuple[_Block, list[Group], Stage | None] | None = None

    def of(self, task: BlockTask, *, only_mean: bool) -> Iterator[tuple[Group, Stage | None]]:
        """Give the groups of a block's clients that have examples, and the stages of those that train in dual form.

        Args:
            task: the block.
            only_mean: whether nothing but the mean of its clients' models is asked for; else none is in dual form.
        """
        block = _Block(task.round, task.clients, task.effort, task.uniform, only_mean, task.everyone)
        if self._first is None or self._first.round != block.round:
            self._again = self._first is not None and self._first.clients == block.clients
            self._first = block
        ready, self._ready = self._ready, None
        if ready is not None and ready[0] == block:
            _, groups, stage = ready
        else:
            groups, stage = self._cut(block), None
        for group in groups:
            if stage is None and group.in_dual:
                stage = self._stage(block, group)
            yield group, stage
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
        stage = self._stage(block, groups[0]) if groups and groups[0].in_dual else None
        self._ready = block, groups, stage

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
            dual = self._dual if block.only_mean else None
            self._cuts = like, list(self._together(clients, counts, drawn, dual))
        return [
            Group(some, [drawn[c] for c in some], [counts[c] for c in some], in_dual) for some, in_dual in self._cuts[1]
        ]

    def _together(
        self,
        clients: list[int],
        counts: Mapping[int, int],
        plans: Mapping[int, NDArray[np.int64]],
        dual: Dual | None,
    ) -> Iterator[tuple[list[int], bool]]:
        """Cut clients into those that are stacked together, each group with whether it trains in dual form.

        A group is no larger than what the cache holds, and in dual form its clients hold alike many examples: each is
        given room for as many as the largest.
        """
        alike: list[tuple[list[int], bool]] = []
        serves: dict[tuple[int, tuple[int, ...]], bool] = {}
        for client in clients:
            n, shape = counts[client], plans[client].shape
            in_dual = serves.get((n, shape))
            if in_dual is None:
                in_dual = dual is not None and (n <= self._grams.most or dual.pays(n, shape[0] / -(-n // shape[1])))
                serves[n, shape] = in_dual
            if not alike or alike[-1][1] != in_dual or (in_dual and 2 * n <= counts[alike[-1][0][0]]):
                alike.append(([], in_dual))
            alike[-1][0].append(client)
        for group, in_dual in alike:
            most = max(counts[client] for client in group)
            width = dual.width(most) if dual is not None and in_dual else max(1, STACK_BYTES // max(self._size, 1))
            even = -(-len(group) // -(-len(group) // width))
            for begin in range(0, len(group), even):
                yield group[begin : begin + even], in_dual

    def _stage(self, block: _Block, group: Group) -> Stage:
        """Put clients side by side."""
        assert self._dual is not None
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
            held = self._holdings(block, group)
            table = pad(group.plans)
            frame, share_K = self._drafted(block, group, table, held)
            inner = own = Own(held, table, frame)
            stacked = StackedPlan(own.to(own.rows_SKB), frame)
            labels_SKB = held.labels_R.index_select(0, stacked.rows_SKB.view(-1)).view(stacked.rows_SKB.shape)
            if not self._dual.above:
                steps = Steps(own, stacked, labels_SKB, share_K, self._dual.units)
        return Stage(inner, stacked, labels_SKB, share_K, -(-len(stacked.rows_SKB) // max(passes)), steps)

    def _holdings(self, block: _Block, group: Group) -> Holdings:
        """Give what clients hold; packed where everybody takes part, so that the group will come again.

        That must not depend on what has been here before: packed inputs give other roundings.
        """
        assert self._dual is not None
        clients = tuple(group.clients)
        packed = self._packs and block.everyone and block.round >= PACKED_FROM
        if packed and clients in self._packed:
            return self._packed[clients]
        if not packed and self._held is not None and self._held[0] == clients:
            return self._held[1]
        self._held = None  # it may hold copies of examples
        x, y, starts = self.examples.own(clients)
        x, sizes, products = x.flatten(1), np.array(group.counts, np.int64), self._grams.of(clients)
        if packed and packs(x):
            self._packed[clients] = held = Holdings(Packed(x, self._dual.units), y, starts, sizes, products)
        else:
            held = Holdings(Plain(x), y, starts, sizes, products)
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


def packs_pay(dual: Dual, sizes: NDArray[np.integer], limit: float) -> bool:
    """Say whether workers keep packed inputs of clients that come again and again, two copies of them.

    Args:
        dual: form of the network.
        sizes: examples of every client.
        limit: MiB that they may take.
    """
    if dual.above or dual.units > PACKED_UNITS or dual.features < PACKED_FEATURES:
        return False
    return 2 * 4.0 * dual.features * float(sizes.sum()) <= limit * 2**20
