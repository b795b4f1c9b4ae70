"""Which examples a client sees in which step."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum.clients.library import library
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.streams import Streams


def plan(spec: ClientSpec, examples: int, *, round: int, client: int, effort: float = 1.0) -> NDArray[np.int64]:
    """Give the batches of one client and round as positions in its data, ``[steps, batch]``, -1 where a batch is short.

    Every epoch is a fresh permutation cut into batches; the last batch of an epoch may be short. The plan depends on
    the seed, the round and the client alone. ``effort`` keeps that fraction of the steps, at least one.
    """
    return plans(spec, {client: examples}, Streams(spec.seed, "batches"), round=round, effort=[effort])[client]


def plans(
    spec: ClientSpec, counts: Mapping[int, int], streams: Streams, *, round: int, effort: Sequence[float] | None = None
) -> dict[int, NDArray[np.int64]]:
    """Give the plans of several clients, by client.

    Args:
        spec: what clients do.
        counts: examples of each client.
        streams: of the seed and the name ``batches``.
        round: of the server.
        effort: of each client; None is all of it for everybody.
    """
    alike: dict[int, list[int]] = {}
    for client, examples in counts.items():
        alike.setdefault(examples, []).append(client)
    shapes = {examples: _shape(spec, examples) for examples in alike}
    order = [client for clients in alike.values() for client in clients]
    passes = [_Passes(n, epochs, batches * batch, len(alike[n])) for n, (_, epochs, batches, batch) in shapes.items()]
    drawn, at = _permute(passes, streams, order, round=round), 0
    whole: dict[int, NDArray[np.int64]] = {}
    for one, clients in zip(passes, alike.values(), strict=True):
        steps, _, _, batch = shapes[one.examples]
        table_KSB = drawn[at : at + one.size].reshape(len(clients), -1, batch)[:, :steps]
        whole.update(zip(clients, table_KSB, strict=True))
        at += one.size
    if effort is None:
        return whole if len(alike) == 1 else {client: whole[client] for client in counts}
    return {
        client: whole[client][: max(1, int(len(whole[client]) * share))]
        for client, share in zip(counts, effort, strict=True)
    }


class _Passes(NamedTuple):
    """Passes over their examples of clients that have so many."""

    examples: int
    epochs: int
    width: int
    """Of a pass: all its batches, the last of which may be short."""
    clients: int

    @property
    def size(self) -> int:
        return self.epochs * self.width * self.clients


def _permute(passes: Sequence[_Passes], streams: Streams, clients: list[int], *, round: int) -> NDArray[np.int64]:
    """Give permutations of examples, one behind another and each with -1 up to the width of a pass.

    Every client has a stream of its own; compiled code gives the bits of numpy.
    """
    drawn, code = np.full(sum(one.size for one in passes), -1, np.int64), library()
    if code is not None:
        table = np.array(passes, np.int64)
        keys = streams.keys("client", clients, round=round)
        code.native_permute(*map(_LONG, (keys.ctypes.data, len(table), table.ctypes.data, drawn.ctypes.data)))
        return drawn
    rngs, at = streams.along("client", clients, round=round), 0
    for one in passes:
        for rng in itertools.islice(rngs, one.clients):
            for _ in range(one.epochs):
                drawn[at : at + one.examples] = rng.permutation(one.examples)
                at += one.width
    return drawn


_LONG = ctypes.c_int64


def _shape(spec: ClientSpec, examples: int) -> tuple[int, int, int, int]:
    """Give steps, epochs, batches an epoch, and the size of a batch."""
    batch = min(spec.batch_size or examples, examples)
    batches, steps = -(-examples // batch), spec.steps_for(examples)
    return steps, -(-steps // batches), batches, batch


@dataclass(frozen=True)
class Frame:
    """How many batches, of which sizes, K clients have: all of their plans but which examples are in them."""

    real_SKB: NDArray[np.bool_]
    """Where there is an example, ``[steps, K, batch]``."""
    weights_SKB: Tensor
    """1 for an example, 0 where there is none."""
    steps: NDArray[np.int64]
    """Steps of each client."""

    @classmethod
    def of(cls, table_SKB: NDArray[np.int64], like: Tensor) -> Frame:
        """Look where a table of examples has one (-1: none); weights are of the kind of ``like``."""
        real_SKB = table_SKB >= 0
        kind = like.dtype if like.is_floating_point() else torch.float32
        return cls(real_SKB, torch.from_numpy(real_SKB).to(like.device, kind), real_SKB[:, :, 0].sum(0))

    @cached_property
    def active(self) -> list[int]:
        """How many clients take part in each step: the first ones."""
        active: list[int] = (self.steps > np.arange(len(self.real_SKB))[:, None]).sum(1).tolist()
        return active

    @cached_property
    def left_SK(self) -> Tensor:
        """Steps that each client has left at each of its own, that one among them."""
        left = (self.steps - np.arange(len(self.real_SKB))[:, None]).clip(0)
        return torch.from_numpy(left).to(self.weights_SKB.device)

    @cached_property
    def full(self) -> bool:
        """Whether there is an example everywhere."""
        return bool(self.real_SKB.all())

    @cached_property
    def seen_K(self) -> Tensor:
        """Examples that each client sees in all its steps."""
        return self.weights_SKB.sum((0, 2))

    @cached_property
    def share_SKB(self) -> Tensor:
        """Weight of each example in the mean of its batch."""
        return mean_shares(self.weights_SKB)

    @cached_property
    def against_SKB(self) -> Tensor:
        """The same below 0: a gradient by outputs is a probability less a 1 for the label, times the share."""
        return self.share_SKB.neg()


@dataclass(frozen=True)
class StackedPlan:
    """The batches of K clients side by side, in falling order of their steps: those still at work are the first ones.

    Where a client has no example its own first one stands in with weight 0, so that a number that is not finite
    stays with the client that has it.
    """

    rows_SKB: Tensor
    """Rows of the source of examples, ``[steps, K, batch]``."""
    frame: Frame

    @classmethod
    def of(cls, rows: Sequence[NDArray[np.int64]], like: Tensor) -> StackedPlan:
        """Stack plans of rows, ``[steps, batch]`` with -1 for no example; weights are of the kind of ``like``."""
        table = pad(rows)
        frame = Frame.of(table, like)
        return cls(torch.from_numpy(np.where(frame.real_SKB, table, table[0, :, :1])).to(like.device), frame)

    @property
    def weights_SKB(self) -> Tensor:
        """1 for an example, 0 where there is none."""
        return self.frame.weights_SKB

    @property
    def steps(self) -> NDArray[np.int64]:
        """Steps of each client."""
        return self.frame.steps

    @property
    def active(self) -> list[int]:
        """How many clients take part in each step: the first ones."""
        return self.frame.active


def mean_shares(weights: Tensor) -> Tensor:
    """Give ``w_i / sum_j w_j`` over the last axis, and 0 where there is no weight at all."""
    return weights / weights.sum(-1, keepdim=True).clamp_(min=torch.finfo(weights.dtype).tiny)


def side_by_side(plans: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Give ``[K, steps, batch]`` of plans ``[steps, batch]``, with -1 wherever a client has no example."""
    shape = (len(plans), max(len(p) for p in plans), max(p.shape[1] for p in plans))
    if all(p.shape == shape[1:] for p in plans):
        return np.concatenate(plans, dtype=np.int64).reshape(shape)
    table = np.full(shape, -1, dtype=np.int64)
    for k, p in enumerate(plans):
        table[k, : p.shape[0], : p.shape[1]] = p
    return table


def pad(plans: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Give the same with steps first, ``[steps, K, batch]``."""
    return np.ascontiguousarray(side_by_side(plans).swapaxes(0, 1))
