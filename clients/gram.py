"""Inner products of a client's examples, which the dual form trains on: they stay the same for a whole run.

Where they are kept, what a step needs is a choice of them, so a round reads a client's inputs twice, each time as they
lie in memory: for the outputs of the layer at the model of the round, and for the mean of the weights. Which ones are
kept never changes a result: those of a client are computed by themselves, in memory aligned alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum.clients.batches import Frame
from fedmomentum.clients.examples import Examples
from fedmomentum.clients.linear import Inputs

KEPT_EXAMPLES, KEPT_PER_OUTPUT = 90, 1.5
"""Examples of a client up to which its inner products are kept, and how many more for each output of the layer: up to
there they have saved what they cost by the fifth round of the client, or earlier (benchmarks/vectorize.py)."""
BYTES_A_CLIENT = 700
"""What a client counts beside its numbers: many tiny clients seldom come back, and making products of few examples, one
client after another, costs more than it saves (a million of two examples each: benchmarks/scale.py)."""


class Inner(Protocol):
    """Inputs of K clients in R rows, and the inner products of those that steps see."""

    x: Inputs

    def begin(self, first: int, last: int) -> None:
        """Begin a stretch of steps, from the first one up to the last one, which is left out."""

    def choose(self, rows_RU: Tensor, step: int, active: int) -> Tensor:
        """Give the rows of the examples that a step of the stretch sees, for the first clients, ``[active, B, U]``."""

    def collect(self, seen_KPU: Tensor) -> Tensor:
        """Sum up numbers of the examples that the stretch sees by their rows; 0 where it does not see one."""

    def products(self, step: int, active: int) -> Tensor:
        """Give inner products of the examples of a step with those before it in the stretch, for the first clients."""

    def of_clients(self, numbers_K: Tensor) -> Tensor:
        """Give a number of each client in every row of its own."""

    def spread(self, rows_RU: Tensor) -> Tensor:
        """Give ``(X X^T) rows``, client by client."""


class Products(NamedTuple):
    """Inner products of clients, one behind another, and behind them room for one more line of the longest."""

    numbers: Tensor
    starts: NDArray[np.int64]
    """Where those of each client begin."""

    def lines(self, length: int) -> Tensor:
        """Give what begins at every number, so many of them: a client's line and what happens to lie behind it."""
        return self.numbers.as_strided((len(self.numbers) - length + 1, length), (1, 1))


class Grams:
    """The inner products ``X X^T`` (plus 1, the product of two inputs that are 1) of clients, kept or made anew."""

    def __init__(self, examples: Examples, *, bias: bool, most: int) -> None:
        """Take the source of examples.

        Args:
            examples: of all clients.
            bias: whether each example has one more input that is 1.
            most: examples of a client whose products are kept, at most.
        """
        self._examples, self._one, self.most = examples, 1.0 if bias else 0.0, most
        self._kept: Products | None = None
        self._known = np.zeros(0, bool)

    def of(self, clients: Sequence[int]) -> Products:
        """Give the products of clients."""
        chosen = np.asarray(clients)
        sizes = self._examples.data.sizes[chosen].astype(np.int64)
        if sizes.max() > self.most:
            made = [self._make(client).view(-1) for client in clients]
            made.append(made[0].new_zeros(int(sizes.max())))
            return Products(torch.cat(made), np.cumsum(sizes**2) - sizes**2)
        if self._kept is None:
            self._kept = self._room(self._make(clients[0]))
        for client in chosen[~self._known[chosen]].tolist():
            gram, start = self._make(client).view(-1), self._kept.starts[client]
            self._kept.numbers[start : start + len(gram)] = gram
            self._known[client] = True
        return Products(self._kept.numbers, self._kept.starts[chosen])

    def _room(self, like: Tensor) -> Products:
        """Give a place to every client whose products are kept; the system gives pages of it as they are written."""
        sizes = self._examples.data.sizes.astype(np.int64)
        places = np.where(sizes <= self.most, sizes**2, 0)
        self._known = np.zeros(len(sizes), bool)
        return Products(like.new_empty(int(places.sum()) + self.most), np.cumsum(places) - places)

    def _make(self, client: int) -> Tensor:
        x = self._examples.own([client])[0].flatten(1)
        gram = torch.mm(x, x.T)
        return gram.add_(self._one) if self._one else gram


def most_kept(sizes: NDArray[np.integer], outputs: int, limit: float) -> int:
    """Give the examples of a client, at most, for whom inner products are kept: the same in every worker, 0 for nobody.

    Args:
        sizes: examples of every client.
        outputs: of the first layer.
        limit: MiB that the products of all clients may take, at 4 bytes each and ``BYTES_A_CLIENT`` beside them.
    """
    most = int(KEPT_EXAMPLES + KEPT_PER_OUTPUT * outputs)
    held = np.asarray(sizes, dtype=np.float64)
    held = held[held <= most]
    return most if 4.0 * float(held @ held) + BYTES_A_CLIENT * len(held) <= limit * 2**20 else 0


class Places:
    """Where the rows of inputs are in a table of examples that steps see."""

    def __init__(
        self,
        rows: NDArray[np.int64],
        real: NDArray[np.bool_] | None,
        size: int,
        to: Callable[[NDArray[np.int64]], Tensor],
    ) -> None:
        """Find each of so many rows among those of the table that are real (None: all), where the numbers will be."""
        seen = rows.reshape(-1)
        at = np.arange(len(seen)) if real is None else np.flatnonzero(real)
        seen = seen if real is None else seen[at]
        self._size, where = size, np.full(size, -1)
        where[seen] = at
        unseen = np.flatnonzero(where < 0)
        self._once = size - len(unseen) == len(at)
        if self._once:
            self._where, self._unseen = to(np.maximum(where, 0)), to(unseen) if len(unseen) else None
        else:
            self._at, self._seen = to(at), to(seen)

    def sum(self, seen: Tensor, axis: int) -> Tensor:
        """Give the sums of what the table has for each row, along an axis."""
        if self._once:  # no row is there twice, so nothing has to be added
            rows = seen.index_select(axis, self._where)
            return rows if self._unseen is None else rows.index_fill_(axis, self._unseen, 0.0)
        shape = [*seen.shape[:axis], self._size, *seen.shape[axis + 1 :]]
        return seen.new_zeros(shape).index_add_(axis, self._seen, seen.index_select(axis, self._at))


@dataclass(frozen=True)
class Holdings:
    """What K clients hold, side by side in R rows: all of one client after another, in any order of the clients."""

    x: Inputs
    labels_R: Tensor
    starts: NDArray[np.int64]
    """The row where each client's begin."""
    sizes: NDArray[np.int64]
    """How many there are."""
    products: Products

    @cached_property
    def most(self) -> int:
        """Examples of the client that has most."""
        return int(self.sizes.max())

    @cached_property
    def lines(self) -> Tensor:
        """What begins at every inner product: a client's line, and what happens to lie behind it."""
        return self.products.lines(self.most)

    @cached_property
    def with_room(self) -> Tensor | None:
        """Rows of each client, in room for as many as the largest has; None where this is just how they lie."""
        own_KN = np.minimum(np.arange(self.most), self.sizes[:, None] - 1)
        rows_Q = (own_KN + self.starts[:, None]).reshape(-1)
        if len(rows_Q) == self.x.rows and bool((rows_Q == np.arange(self.x.rows)).all()):
            return None
        return self.to(rows_Q)

    def to(self, table: NDArray[np.int64]) -> Tensor:
        """Give a table as a tensor where the inputs are."""
        return torch.from_numpy(np.ascontiguousarray(table)).to(self.x.device)


class Own:
    """Clients' inputs in the order in which they hold them, with all products: for any number of passes."""

    def __init__(self, held: Holdings, table_SKB: NDArray[np.int64], frame: Frame) -> None:
        """Take what clients hold, which of its own each step sees (-1 where there is no example), and its frame."""
        self.held, self.x, self._frame = held, held.x, frame
        self.own_SKB = table_SKB if frame.full else np.maximum(table_SKB, 0)
        self.rows_SKB = self.own_SKB + held.starts[:, None]
        self._lines_SKB = self.to(self.own_SKB * held.sizes[:, None] + held.products.starts[:, None])
        self._first = 0

    def to(self, table: NDArray[np.int64]) -> Tensor:
        """Give a table as a tensor where the inputs are."""
        return self.held.to(table)

    def begin(self, first: int, last: int) -> None:
        """Find where the rows are seen."""
        self._first, steps = first, slice(first, last)
        self._chosen_SKB = self.to(self.rows_SKB[steps])
        self._columns_K1P = self.to(self.own_SKB[steps].swapaxes(0, 1)).flatten(1).unsqueeze(1)
        real_KSB = None if self._frame.full else self._frame.real_SKB[steps].swapaxes(0, 1)
        self._places = Places(self.rows_SKB[steps].swapaxes(0, 1), real_KSB, self.x.rows, self.to)

    def seen(self) -> Places:
        """Give where rows are in what has a number for each example that all steps see, ``[S, K, B]``."""
        return Places(self.rows_SKB, None if self._frame.full else self._frame.real_SKB, self.x.rows, self.to)

    def choose(self, rows_RU: Tensor, step: int, active: int) -> Tensor:
        """Give the rows of the examples that a step of the stretch sees."""
        rows_AB = self._chosen_SKB[step, :active]
        return rows_RU.index_select(0, rows_AB.view(-1)).view(*rows_AB.shape, -1)

    def collect(self, seen_KPU: Tensor) -> Tensor:
        """Sum up numbers of the examples that the stretch sees by their rows."""
        return self._places.sum(seen_KPU.flatten(0, 1), 0)

    def products(self, step: int, active: int) -> Tensor:
        """Choose columns of the lines."""
        lines_ABN = self.lines(self._first + step, active)
        before_A1P = self._columns_K1P[:active, :, : step * lines_ABN.shape[1]]
        return lines_ABN.gather(2, before_A1P.expand(-1, lines_ABN.shape[1], -1))

    def lines(self, step: int, active: int) -> Tensor:
        """Give inner products of the examples of a step with all of their client, in its order, and some padding."""
        lines_AB = self._lines_SKB[step, :active]
        return self.held.lines.index_select(0, lines_AB.view(-1)).view(*lines_AB.shape, -1)

    def of_clients(self, numbers_K: Tensor) -> Tensor:
        """Give a number of each client in every row of its own."""
        order = np.argsort(self.held.starts)
        return numbers_K[self.to(np.repeat(order, self.held.sizes[order]))]

    def spread(self, rows_RU: Tensor) -> Tensor:
        """Give ``(X X^T) rows``, client by client."""
        result = torch.empty_like(rows_RU)
        held, products = self.held, self.held.products
        for start, n, at in zip(held.starts, held.sizes, products.starts, strict=True):
            gram = products.numbers[at : at + n * n].view(n, n)
            result[start : start + n] = torch.mm(gram, rows_RU[start : start + n])
        return result


class Seen:
    """Clients' inputs in the order in which one pass sees them: only products that the pass needs are ever taken."""

    def __init__(self, x_KPD: Tensor, table_SKB: NDArray[np.int64], *, bias: bool) -> None:
        """Take the inputs, the table whose rows they are (-1: no example), and whether each has a 1 behind it."""
        self._x_KPD, self._bias = x_KPD, bias
        self._steps, _, self._batch = table_SKB.shape
        self.x = Inputs(x_KPD.view(-1, x_KPD.shape[2]))
        nobody = np.flatnonzero(table_SKB.swapaxes(0, 1) < 0)
        self._nobody = torch.from_numpy(nobody).to(x_KPD.device) if len(nobody) else None

    def begin(self, first: int, last: int) -> None:
        """There is one stretch, and nothing to prepare for it."""

    def choose(self, rows_RU: Tensor, step: int, active: int) -> Tensor:
        """Give rows as they lie."""
        return rows_RU.view(len(self._x_KPD), self._steps, self._batch, -1)[:active, step]

    def collect(self, seen_KPU: Tensor) -> Tensor:
        """Give what there is: each row is seen once."""
        rows_RU = seen_KPU.flatten(0, 1)
        return rows_RU if self._nobody is None else rows_RU.index_fill_(0, self._nobody, 0.0)

    def products(self, step: int, active: int) -> Tensor:
        """Take the products."""
        x_KPD, before = self._x_KPD[:active], step * self._batch
        inner = torch.bmm(x_KPD[:, before : before + self._batch], x_KPD[:, :before].mT)
        return inner.add_(1.0) if self._bias else inner

    def of_clients(self, numbers_K: Tensor) -> Tensor:
        """Give a number of each client in every row of its own."""
        return numbers_K.repeat_interleave(self._x_KPD.shape[1])

    def spread(self, rows_RU: Tensor) -> Tensor:
        """Refuse: a second stretch would be a second pass.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("one pass only")
