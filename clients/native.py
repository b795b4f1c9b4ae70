"""A fast path of stacked training: clients of small dense networks, one after another, in C (``native.c``).

A client of a small network is over in a tenth of a millisecond, in which even stacked tensors pass through some hundred
operations, each of which reads and writes memory of all clients. Here a client's model and velocity stay in the cache
of a core for all of its steps, and its examples are read from memory once. Equal to the plain loop to float tolerance
(tests/clients/test_native.py); bits of a client depend on nothing but the client, its processor and the compiler.

The library is built when the package is installed, where there is a C compiler; without it clients train as before.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmomentum.clients.batches import side_by_side
from fedmomentum.clients.dense import Layer
from fedmomentum.clients.fused import HeavyBall
from fedmomentum.clients.library import library
from fedmomentum.clients.local import Drift
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.trees import Tree

MOST_PARAMETERS, PARAMETERS_PER_EXAMPLE = 300_000, 15_000
"""Parameters up to which it is the fastest form, and for each example of a batch: a step reads and writes the model and
its velocity, which are out of the cache beyond (benchmarks/vectorize.py)."""

_ADDRESS, _COUNT = ctypes.c_void_p, ctypes.c_int64


class Step(ctypes.Structure):
    """``struct ball`` of ``native.c``: what a step takes, but a shift."""

    _fields_ = (
        *((name, ctypes.c_float) for name in ("lr", "momentum", "gradient", "decay", "pull")),
        ("nesterov", ctypes.c_bool),
    )

    @classmethod
    def of(cls, ball: HeavyBall, lr: float, drift: Drift | None = None) -> Step:
        """Give a step of a rule on what a method makes of the gradient."""
        scale, pull, _ = drift or Drift()
        return cls(ball.scale * lr, ball.momentum, scale, ball.decay, pull, ball.nesterov)


class _Job(ctypes.Structure):
    """``struct job`` of ``native.c``."""

    _fields_ = (
        *((name, _ADDRESS) for name in ("x", "y", "starts", "rows")),
        *((name, _COUNT) for name in ("clients", "steps", "batch", "depth")),
        *((name, _ADDRESS) for name in ("widths", "relu", "params", "shifts", "velocities", "each", "mean")),
        *((name, _ADDRESS) for name in ("shares", "loss")),
        ("step", Step),
    )


@dataclass(frozen=True)
class Batches:
    """What K clients see, step by step."""

    x_RD: Tensor
    y_R: Tensor
    starts_K: NDArray[np.int64]
    """The row where each client's examples begin."""
    share_K: NDArray[np.float64] | None
    """Weight of each client in the mean, where there is to be one."""
    rows_KSB: NDArray[np.int64]
    """Examples of each step, counted from there; -1 where a batch is short."""

    @classmethod
    def of(cls, x: Tensor, y_R: Tensor, starts_K: NDArray[np.int64], share_K: Tensor | None = None) -> Batches:
        """Take the examples of clients, who see none of them yet."""
        nothing = np.zeros((len(starts_K), 0, 0), np.int64)
        shares = None if share_K is None else share_K.numpy()
        return cls(x.flatten(1).contiguous(), y_R.contiguous(), starts_K, shares, nothing)

    def with_plans(self, plans: Sequence[NDArray[np.int64]]) -> Batches:
        """Give the same examples seen by other plans, ``[steps, batch]`` a client."""
        return replace(self, rows_KSB=side_by_side(plans))


class Native:
    """Trains clients of a dense network by a heavy ball."""

    def __init__(self, layers: Sequence[Layer], widths: Sequence[int]) -> None:
        """Take the layers of a network, and how many numbers go into the first and come out of each."""
        self.layers = layers
        self._names = [name for layer in layers for name in (layer.weight, layer.bias)]
        self._widths = np.asarray(widths, np.int64)
        self._relu = np.array([layer.relu for layer in layers], np.uint8)
        self._size = sum(
            (n + (layer.bias is not None)) * out for layer, (n, out) in zip(layers, pairwise(widths), strict=True)
        )

    @property
    def least_batch(self) -> int | None:
        """The examples of a batch from which it is the fastest form; None where it never is."""
        return None if self._size > MOST_PARAMETERS else -(-self._size // PARAMETERS_PER_EXAMPLE)

    def pays(self, batch: int) -> bool:
        """Say whether it is the fastest form for a client with batches of so many examples."""
        return self.least_batch is not None and batch >= self.least_batch

    def reads(self, x: NDArray[Any], y: NDArray[Any]) -> bool:
        """Say whether examples and labels are what it takes them for: in C nothing else asks for kinds and widths."""
        return x.dtype == np.float32 and y.dtype == np.int64 and math.prod(x.shape[1:]) == self._widths[0]

    def mean(self, anchor: Tree, batches: Batches, step: Step) -> tuple[Tree, list[float]] | None:
        """Give the weighted mean of the models where clients end, and the mean loss of each over all that it saw.

        None where some number is not finite, or a label is no class: trained otherwise they tell whose.

        Args:
            anchor: the model that they start from, each with a velocity of 0.
            batches: what they see.
            step: what each step takes.
        """
        assert batches.share_K is not None
        mean = {name: torch.empty_like(t) for name, t in anchor.items()}
        found = self._run(anchor, batches, step, mean=mean, shares=_at(batches.share_K, np.float64))
        return None if found is None else (mean, found)

    def each(
        self, anchor: Tree, velocity_K: Tree | None, shift_K: Tree | None, batches: Batches, step: Step
    ) -> tuple[Tree, list[float]] | None:
        """Give the models where clients end, stacked, and the mean loss of each.

        None where a label is no class, and then nothing has changed.

        Args:
            anchor: the model that they start from.
            velocity_K: with which they start, stacked; where they end with it is written there. None for 0.
            shift_K: what each adds to its gradients, stacked; None for 0.
            batches: what they see.
            step: what each step takes, but the shift.
        """
        clients = len(batches.rows_KSB)
        each_K = {name: t.new_empty(clients, *t.shape) for name, t in anchor.items()}
        shift_K = shift_K and {name: t.expand_as(each_K[name]) for name, t in shift_K.items()}
        found = self._run(anchor, batches, step, velocities=velocity_K, shifts=shift_K, each=each_K)
        return None if found is None else (each_K, found)

    def _run(
        self, anchor: Tree, batches: Batches, step: Step, *, shares: int | None = None, **trees: Tree | None
    ) -> list[float] | None:
        clients, steps, batch = batches.rows_KSB.shape
        loss_K = np.empty(clients)
        own = {name: {n: _floats(t) for n, t in tree.items()} for name, tree in trees.items() if tree}
        params = {name: _floats(t) for name, t in anchor.items()}
        job = _Job(
            x=_at(batches.x_RD.numpy(), np.float32),
            y=_at(batches.y_R.numpy(), np.int64),
            starts=_at(batches.starts_K, np.int64),
            rows=_at(batches.rows_KSB, np.int64),
            clients=clients,
            steps=steps,
            batch=batch,
            depth=len(self.layers),
            widths=_at(self._widths, np.int64),
            relu=_at(self._relu, np.uint8),
            params=self._of(params),
            shares=shares,
            loss=_at(loss_K, np.float64),
            step=step,
            **{name: self._of(tree) for name, tree in own.items()},
        )
        code = library()
        assert code is not None
        if code.native_train(ctypes.byref(job), code.native_lanes()):
            return None
        for name, tree in own.items():
            for n, given in (trees[name] or {}).items():
                if tree[n] is not given and name != "shifts":
                    given.copy_(tree[n])
        return loss_K.tolist()

    def _of(self, tree: Tree) -> Any:
        """Give the addresses of the tensors of every layer."""
        found = [None if name is None else tree[name].data_ptr() for name in self._names]
        return ctypes.cast((_ADDRESS * len(found))(*found), _ADDRESS)


def _floats(x: Tensor) -> Tensor:
    """Give a tensor as C reads it: a server may send its trees in float64, or in another memory layout."""
    return x.to(torch.float32).contiguous()


def _at(array: NDArray[Any], kind: type[np.generic]) -> int:
    """Give the address of numbers, which have to be as C reads them.

    Raises:
        TypeError: they are of another kind, or do not lie one behind another.
    """
    if array.dtype != kind or not array.flags.c_contiguous:
        raise TypeError(f"compiled code reads {np.dtype(kind)} one behind another, not {array.dtype}")
    return int(array.__array_interface__["data"][0])


def native(spec: ClientSpec, module: nn.Module, layers: Sequence[Layer] | None) -> Native | None:
    """Give the form for a dense network that trains by a heavy ball towards classes, or None where there is none."""
    if layers is None or not spec.native or spec.device != "cpu":
        return None
    if any(t.dtype != torch.float32 for t in module.parameters()):
        return None
    weights = [module.get_parameter(layer.weight) for layer in layers]
    if any(above.shape[1] != below.shape[0] for below, above in pairwise(weights)):
        return None  # torch says what is wrong with it
    return Native(layers, [weights[0].shape[1], *(w.shape[0] for w in weights)])
