"""Inner products of a client's examples, which the dual form trains on: they stay the same for a whole run.

Where they are kept, a batch is a choice of rows and columns of them, so a round reads a client's inputs twice, each
time as they lie in memory: for the outputs of the layer at the model of the round, and for the mean of the weights.
Which numbers are kept never changes a result: those of a client are computed by themselves, in memory aligned alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedmomentum.clients.examples import Examples

KEPT_EXAMPLES, KEPT_PER_OUTPUT = 90, 1.5
"""Examples of a client up to which its inner products are kept, and how many more for each output of the layer: up to
there they have saved what they cost by the fifth round of the client, or earlier (benchmarks/vectorize.py)."""
BYTES_A_CLIENT = 700
"""What a tensor that is kept takes beside its numbers: most of it where a million clients have two examples each."""


class Inner(Protocol):
    """Inputs of K clients in R rows, and the inner products of those that steps see."""

    x_RD: Tensor
    owner_R: Tensor
    """Whose input a row is, counted from 0."""

    def begin(self, first: int, last: int) -> None:
        """Begin a stretch of steps, from the first one up to the last one, which is left out."""

    def choose(self, rows_RU: Tensor) -> Tensor:
        """Give the rows of the examples that the steps of the stretch see, ``[K, P, U]``."""

    def collect(self, seen_KSN: Tensor) -> Tensor:
        """Sum up numbers of the examples that steps see, ``[K, S, B U]``, by their rows."""

    def products(self, now: slice, seen: slice, active: int) -> Tensor:
        """Give inner products of examples with some that come before in the stretch, for the first clients."""

    def spread(self, rows_RU: Tensor) -> Tensor:
        """Give ``(X X^T) rows``, client by client."""


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
        self._known: dict[int, Tensor] = {}

    def of(self, clients: Sequence[int]) -> list[Tensor]:
        """Give the products of clients, ``[n, n]`` each."""
        return [self._of(client) for client in clients]

    def _of(self, client: int) -> Tensor:
        gram = self._known.get(client)
        if gram is None:
            x = self._examples.own([client])[0].flatten(1)
            gram = torch.mm(x, x.T)
            if self._one:
                gram.add_(self._one)
            if len(x) <= self.most:
                self._known[client] = gram
        return gram


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


class Own:
    """Clients' inputs in the order in which they hold them, with all products: for any number of passes."""

    def __init__(self, x_RD: Tensor, rows_SKB: Tensor, grams: Sequence[Tensor]) -> None:
        """Stack clients.

        Args:
            x_RD: all inputs of one client after another.
            rows_SKB: which of them each step sees; any of the client's own where there is no example.
            grams: inner products of each.
        """
        self.x_RD, self._grams, self._sizes = x_RD, grams, [len(gram) for gram in grams]
        sizes = torch.tensor(self._sizes, device=x_RD.device)
        self.owner_R = torch.arange(len(sizes), device=x_RD.device).repeat_interleave(sizes)
        self._rows_KSB = rows_SKB.transpose(0, 1).contiguous()
        self._columns_KSB = self._rows_KSB - (sizes.cumsum(0) - sizes).view(-1, 1, 1)
        most = max(self._sizes)
        self._inner_RN = torch.cat([g if len(g) == most else F.pad(g, (0, most - len(g))) for g in grams])

    def begin(self, first: int, last: int) -> None:
        """Choose the rows of the products."""
        self._columns_KP = self._columns_KSB[:, first:last].flatten(1)
        self._rows = self._rows_KSB[:, first:last].reshape(-1)
        self._inner_KPN = self.choose(self._inner_RN)

    def choose(self, rows_RU: Tensor) -> Tensor:
        """Give the rows of the examples that the steps of the stretch see."""
        return rows_RU.index_select(0, self._rows).view(*self._columns_KP.shape, -1)

    def collect(self, seen_KSN: Tensor) -> Tensor:
        """Sum up numbers of the examples that steps see by their rows."""
        seen = seen_KSN.view(len(self._rows), -1)
        return seen.new_zeros(len(self.x_RD), seen.shape[1]).index_add_(0, self._rows, seen)

    def products(self, now: slice, seen: slice, active: int) -> Tensor:
        """Choose the columns of the products."""
        rows, columns = self._inner_KPN[:active, now], self._columns_KP[:active, seen]
        return rows.gather(2, columns.unsqueeze(1).expand(-1, rows.shape[1], -1))

    def spread(self, rows_RU: Tensor) -> Tensor:
        """Give ``(X X^T) rows``, client by client."""
        parts = zip(self._grams, torch.split(rows_RU, self._sizes), strict=True)
        return torch.cat([torch.mm(gram, part) for gram, part in parts])


class Seen:
    """Clients' inputs in the order in which one pass sees them: only products that the pass needs are ever taken."""

    def __init__(self, x_KPD: Tensor, *, bias: bool) -> None:
        """Take the inputs, and whether each has one more number that is 1."""
        self._x_KPD, self._bias = x_KPD, bias
        self.x_RD = x_KPD.view(-1, x_KPD.shape[2])
        self.owner_R = torch.arange(len(x_KPD), device=x_KPD.device).repeat_interleave(x_KPD.shape[1])

    def begin(self, first: int, last: int) -> None:
        """There is one stretch, and nothing to prepare for it."""

    def choose(self, rows_RU: Tensor) -> Tensor:
        """Give all rows."""
        return rows_RU.view(*self._x_KPD.shape[:2], -1)

    def collect(self, seen_KSN: Tensor) -> Tensor:
        """Give what there is: each row is seen once."""
        return seen_KSN.view(len(self.x_RD), -1)

    def products(self, now: slice, seen: slice, active: int) -> Tensor:
        """Take the products."""
        inner = torch.bmm(self._x_KPD[:active, now], self._x_KPD[:active, seen].mT)
        return inner.add_(1.0) if self._bias else inner

    def spread(self, rows_RU: Tensor) -> Tensor:
        """Refuse: a second stretch would be a second pass.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("one pass only")
