"""What a client does, as plain data: it is the same on every worker and in every deployment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedmomentum.clients.compiled import Compile
from fedmomentum.clients.library import available
from fedmomentum.clients.measuring import Adapt, Measure

Vectorize = Literal["auto", "on", "off"]
Precision = Literal["float32", "tf32", "bf16"]


@dataclass(frozen=True)
class ModelSpec:
    """A network by name, and what it is built from; see :func:`fedmomentum.models.build`."""

    name: str
    input_shape: tuple[int, ...]
    classes: int
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ClientSpec:
    """Local training: which rule, how long, on which batches.

    Args:
        model: the network.
        optimizer: the name of a rule and its hyperparameters, as :func:`fedmomentum.optim.make_rule` takes them.
        epochs: passes over the client's data a round; exclusive with ``steps``.
        steps: minibatch steps a round, whatever the size of the client's data; exclusive with ``epochs``.
        batch_size: examples a step; None takes all of a client's examples at once.
        lr_schedule: server round (from 0) -> factor on the rule's learning rate; it has to be picklable.
        clip_norm: largest norm of a minibatch gradient; a longer one is scaled down to it.
        keep_state: whether a client's rule state (its velocity) lives on to the next round it takes part in.
        seed: of the batches.
        vectorize: train the clients of a block stacked (``on``), one after another (``off``), or as the recorded rule
            says (``auto``; see :func:`fedmomentum.clients.vectorize.choose`).
        device: where training runs.
        method: the local update by name, see :data:`fedmomentum.clients.local.LOCAL_UPDATES`; ``method_options`` go to
            it.
        batch_norm: what becomes of batch norm, see :data:`fedmomentum.clients.norm.Policy`.
        measure: what is measured beside the training; nothing unless it names probes.
        adapt: hyperparameters that each client sets from its own curvature; ``optimizer`` then holds the largest ones.
        precision: of the layers, see :mod:`fedmomentum.clients.precision`.
        compile: whether torch compiles the network, see :mod:`fedmomentum.clients.compiled`.
        gram_memory: MiB that the inner products of the examples of all clients may take for a worker to keep them, see
            :mod:`fedmomentum.clients.gram`.
        native: whether clients of small dense networks train in C, see :mod:`fedmomentum.clients.native`; a worker that
            has not what it takes refuses. Unless it is said, where this process has it.
        threads: torch threads of a worker; results depend on it, so it is fixed and never a matter of load.

    Raises:
        ValueError: both or neither of ``epochs`` and ``steps``, or a number that is not positive.
    """

    model: ModelSpec
    optimizer: Mapping[str, Any]
    epochs: int | None = 1
    steps: int | None = None
    batch_size: int | None = 20
    lr_schedule: Callable[[int], float] | None = None
    keep_state: bool = False
    seed: int = 0
    vectorize: Vectorize = "auto"
    device: str = "cpu"
    threads: int = 1
    precision: Precision = "float32"
    compile: Compile = "none"
    gram_memory: float = 512.0
    native: bool = field(default_factory=available)
    clip_norm: float | None = None
    batch_norm: Literal["average", "local", "freeze"] = "average"
    method: str = "local_sgd"
    method_options: Mapping[str, Any] = field(default_factory=dict)
    measure: Measure = field(default_factory=Measure)
    adapt: Adapt | None = None

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps, not both or neither")
        for name in ("epochs", "steps", "batch_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")

    def steps_for(self, examples: int) -> int:
        """Give the number of minibatch steps that a client with so many examples plans for one round."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * math.ceil(examples / (self.batch_size or max(examples, 1)))

    def steps_of(self, sizes_K: NDArray[np.integer]) -> NDArray[np.float64]:
        """Give :meth:`steps_for` of many clients at once."""
        if self.steps is not None:
            return np.full(len(sizes_K), float(self.steps))
        assert self.epochs is not None
        batches_K = np.ceil(sizes_K / (self.batch_size or np.maximum(sizes_K, 1)))
        return np.asarray(self.epochs * batches_K, np.float64)
