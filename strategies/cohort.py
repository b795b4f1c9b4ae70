"""Who takes part in a round: samplers that depend on a seed, a round and the set of nodes, and on nothing else.

A cohort is a frozen object with one method, ``choose(server_round, node_ids)``. The order in which node ids arrive
never matters: they are sorted first. Where the engine gives clients the same ids in each run, the same seed therefore
gives the same cohorts; a deployed SuperLink draws new ids for anonymous nodes, and only their rank is reproducible.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from fedmomentum import streams


@runtime_checkable
class Cohort(Protocol):
    """Anything that chooses the nodes of a round."""

    def choose(self, server_round: int, node_ids: Sequence[int]) -> list[int]:
        """Give the chosen ones of ``node_ids``, each at most once."""


@dataclass(frozen=True, kw_only=True)
class UniformCohort:
    """Choose a fixed number of nodes, every subset of that size as likely as any other.

    The size is ``count``, or ``floor(fraction * nodes)``, at least ``minimum`` and at most all of them.

    Args:
        fraction: share of the nodes, in [0, 1]; give this or ``count``.
        count: nodes a round, at least 0.
        minimum: nodes a round at the least, where ``fraction`` gives fewer.
        seed: of the stream.
        stream: name of the stream; two samplers with different names choose independently.

    Raises:
        ValueError: neither or both of ``fraction`` and ``count`` are given, or one is out of range.
    """

    fraction: float | None = None
    count: int | None = None
    minimum: int = 1
    seed: int = 0
    stream: str = "cohort"

    def __post_init__(self) -> None:
        """Check the size."""
        _check_size(self.fraction, self.count)

    def choose(self, server_round: int, node_ids: Sequence[int]) -> list[int]:
        """Give the nodes of a round, sorted."""
        nodes = sorted(node_ids)
        size = min(len(nodes), _size(len(nodes), self.fraction, self.count, self.minimum))
        rng = streams.stream(self.seed, self.stream, round=server_round)
        return sorted(nodes[i] for i in rng.choice(len(nodes), size, replace=False)) if size else []


@dataclass(frozen=True, kw_only=True)
class BernoulliCohort:
    """Let every node take part on its own with one probability; the size of the cohort is random.

    An empty draw is drawn again until somebody takes part. In law that is: the first participant's place has the
    geometric distribution cut off at the number of nodes, and everyone after it flips a coin, which is how it is done
    (one pass, however small the probability).

    Args:
        probability: in (0, 1], per node and round.
        redraw: whether an empty draw is drawn again; without it nodes are independent, which differential privacy
            counts on, and a cohort may be empty.
        seed: of the stream.
        stream: name of the stream.

    Raises:
        ValueError: ``probability`` is not in (0, 1].
    """

    probability: float
    redraw: bool = True
    seed: int = 0
    stream: str = "cohort"

    def __post_init__(self) -> None:
        """Check the probability."""
        if not 0.0 < self.probability <= 1.0:
            raise ValueError(f"probability must be in (0, 1], not {self.probability}")

    def choose(self, server_round: int, node_ids: Sequence[int]) -> list[int]:
        """Give the nodes of a round, sorted; with ``redraw`` never none of several."""
        nodes = sorted(node_ids)
        if self.probability == 1.0 or not nodes:
            return nodes
        rng = streams.stream(self.seed, self.stream, round=server_round)
        if not self.redraw:
            return [nodes[i] for i in np.flatnonzero(rng.random(len(nodes)) < self.probability)]
        stay_out = math.log1p(-self.probability)
        some = -math.expm1(len(nodes) * stay_out)
        first = min(int(math.log1p(-rng.random() * some) / stay_out), len(nodes) - 1)
        later = np.flatnonzero(rng.random(len(nodes) - first - 1) < self.probability)
        return [nodes[first], *(nodes[first + 1 + i] for i in later)]


@dataclass(frozen=True, kw_only=True)
class WeightedCohort:
    """Choose a fixed number of nodes one after another without replacement, each draw in proportion to the weights.

    The node with the smallest ``E_i / w_i`` comes first, with ``E_i`` independent exponentials (Efraimidis and Spirakis
    2006, doi:10.1016/j.ipl.2005.11.003). A node of weight 0 is never chosen, so a cohort can be smaller than asked.

    Args:
        weights: node -> weight, finite and at least 0, such as its number of examples.
        fraction: share of the nodes, in [0, 1]; give this or ``count``.
        count: nodes a round, at least 0.
        minimum: nodes a round at the least, where ``fraction`` gives fewer.
        default: weight of a node that ``weights`` does not name; without it such a node is an error.
        seed: of the stream.
        stream: name of the stream.

    Raises:
        ValueError: a weight is negative or not finite, or the size is not given exactly once and in range.
    """

    weights: Mapping[int, float]
    fraction: float | None = None
    count: int | None = None
    minimum: int = 1
    default: float | None = None
    seed: int = 0
    stream: str = "cohort"

    def __post_init__(self) -> None:
        """Check weights and size."""
        _check_size(self.fraction, self.count)
        named = {f"node {node}": weight for node, weight in self.weights.items()}
        for who, weight in (named if self.default is None else {**named, "default": self.default}).items():
            if not 0.0 <= weight < math.inf:
                raise ValueError(f"{who}: a weight must be finite and at least 0, not {weight}")

    def choose(self, server_round: int, node_ids: Sequence[int]) -> list[int]:
        """Give the nodes of a round, sorted.

        Raises:
            KeyError: a node has no weight and there is no ``default``.
        """
        nodes = sorted(node_ids)
        weights = np.array([self._weight(node) for node in nodes])
        size = _size(len(nodes), self.fraction, self.count, self.minimum)
        clocks = streams.stream(self.seed, self.stream, round=server_round).exponential(size=len(nodes))
        with np.errstate(divide="ignore"):
            order = np.argsort(clocks / weights, kind="stable")
        return sorted(nodes[i] for i in order[: min(size, int(np.count_nonzero(weights)))])

    def _weight(self, node: int) -> float:
        weight = self.weights.get(node, self.default)
        if weight is None:
            raise KeyError(f"node {node} has no weight; name it in weights or give a default")
        return weight


@dataclass(frozen=True, kw_only=True)
class CyclicCohort:
    """Let another cohort choose among the nodes that are awake: each is for one stretch of a day of ``period`` rounds.

    A node wakes at its phase, which the seed fixes for good, and stays awake for ``round(window * period)`` rounds (at
    least one); the next day the same. When nobody is awake the cohort is empty and the model stays as it is.

    Args:
        inner: chooses among the nodes that are awake.
        period: rounds a day, at least 1.
        window: share of the day that a node is awake, in (0, 1].
        groups: time zones: phases are the multiples of ``period / groups``. Without it a node wakes at any round.
        seed: of the phases.

    Raises:
        ValueError: an argument is out of range.

    Reference: block-cyclic participation, arXiv:1904.10120.
    """

    inner: Cohort = field(default_factory=lambda: UniformCohort(fraction=1.0))
    period: int
    window: float = 0.5
    groups: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the day."""
        if self.period < 1:
            raise ValueError(f"period must be at least 1 round, not {self.period}")
        if not 0.0 < self.window <= 1.0:
            raise ValueError(f"window must be in (0, 1], not {self.window}")
        if self.groups is not None and not 1 <= self.groups <= self.period:
            raise ValueError(f"groups must be in [1, period = {self.period}], not {self.groups}")

    def phase(self, node: int) -> int:
        """Give the round of the day, counted from 0, at which a node wakes."""
        number = streams.key(self.seed, "phase", client=node)
        return number % self.period if self.groups is None else number % self.groups * self.period // self.groups

    def awake(self, server_round: int, node: int) -> bool:
        """Say whether a node is available in a round (counted from 1)."""
        length = max(1, round(self.window * self.period))
        return (server_round - 1 - self.phase(node)) % self.period < length

    def choose(self, server_round: int, node_ids: Sequence[int]) -> list[int]:
        """Give the nodes of a round."""
        nodes = [node for node in sorted(node_ids) if self.awake(server_round, node)]
        return self.inner.choose(server_round, nodes) if nodes else []


def _check_size(fraction: float | None, count: int | None) -> None:
    if (fraction is None) == (count is None):
        raise ValueError("give either fraction or count")
    if fraction is not None and not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction must be in [0, 1], not {fraction}")
    if count is not None and count < 0:
        raise ValueError(f"count must be at least 0, not {count}")


def _size(nodes: int, fraction: float | None, count: int | None, minimum: int) -> int:
    """Give the size of a cohort; 0.29 of 100 is 29, though the product of the floats is a hair below it."""
    if count is not None:
        return count
    assert fraction is not None
    return max(math.floor(nodes * fraction + 1e-9), minimum)
