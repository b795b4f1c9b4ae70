"""Plain data that travels between the engine and its workers: a task for a block of clients, and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedmomentum.events import Failure, Span
from fedmomentum.trees import State

Arrays: TypeAlias = dict[str, NDArray[np.generic]]
"""A tree as numpy arrays: what crosses a process boundary without a copy."""


@dataclass(frozen=True)
class BlockTask:
    """One block of clients to train, to evaluate or to ask for gradients.

    It holds everything that its result depends on but the records of the round.
    """

    index: int
    """Position of the block in its round: results are reduced in this order, never in the order of arrival."""
    kind: Literal["train", "evaluate", "gradient"]
    round: int
    clients: tuple[int, ...]
    reduce: bool = True
    """Answer with one weighted mean for the block instead of one model a client."""
    uniform: bool = False
    """Let every client count alike in that mean, whatever it holds."""
    fold: bool = False
    """Answer with sums, which are folded with those of other blocks: for large models."""
    effort: tuple[float, ...] | None = None
    """Fraction of its planned steps that each client has time for (a straggler's partial work)."""
    memory: Mapping[int, State] = field(default_factory=dict)
    """State that clients kept from an earlier round, such as their velocity."""


@dataclass(frozen=True)
class BlockResult:
    """What came of a block: a table of the clients whose work counts, their model(s), and who failed and why."""

    index: int
    members: dict[str, list[float]]
    """Equal-length columns, one entry an accepted client: ``client``, ``num-examples`` and every metric."""
    mean: dict[str, Arrays] | None = None
    """By record name (``arrays`` is the model): the weighted mean over the accepted clients, in the model's dtypes;
    None when the task does not ask to ``reduce`` or nobody was accepted."""
    each: list[dict[str, Arrays]] | None = None
    """The records of every accepted client in the order of ``members`` (not ``reduce``)."""
    sums: dict[str, Arrays] | None = None
    """In place of ``mean`` where a large model is folded: ``sum_i w_i (x_i - x)`` of models, where ``x`` was sent, and
    ``sum_i w_i x_i`` of what other records hold."""
    failures: tuple[Failure, ...] = ()
    memory: dict[int, State] = field(default_factory=dict)
    seconds: float = 0.0
    spans: tuple[Span, ...] = ()
    """What the worker did for it; for the profile of a run."""
