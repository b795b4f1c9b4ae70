"""Who takes part in a round: samplers that depend on a seed, a round and the set of nodes, and on nothing else.

A cohort is a frozen object with one method, ``choose(server_round, node_ids)``. The order in which node ids arrive
never matters: they are sorted first (a range is in order already, and stays a range: no list of a million registered
clients is ever made). Where the engine gives clients the same ids in each run, the same seed therefore
gives the same cohorts; a deployed SuperLink draws new ids for anonymous nodes, and only their rank is reproducible.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

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
        nodes = in_order(node_ids)
        size = min(len(nodes), _size(len(nodes), self.fraction, self.count, self.minimum))
        if size in (0, len(nodes)):
            return list(map(int, nodes[:size]))
        rng = streams.stream(self.seed, self.stream, round=server_round)
        return _at(nodes, np.sort(rng.choice(len(nodes), size, replace=False)))


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
        nodes = in_order(node_ids)
        if self.probability == 1.0 or not len(nodes):
            return list(map(int, nodes))
        rng = streams.stream(self.seed, self.stream, round=server_round)
        if not self.redraw:
            return _at(nodes, np.flatnonzero(rng.random(len(nodes)) < self.probability))
        stay_out = math.log1p(-self.probability)
        some = -math.expm1(len(nodes) * stay_out)
        first = min(int(math.log1p(-rng.random() * some) / stay_out), len(nodes) - 1)
        later = np.flatnonzero(rng.random(len(nodes) - first - 1) < self.probability)
        return _at(nodes, np.concatenate([[first], first + 1 + later]))


@dataclass(frozen=True, kw_only=True)
class WeightedCohort:
    """Choose a fixed number of nodes one after another without replacement, each draw in proportion to the weights.

    The node with the smallest ``E_i / w_i`` comes first, with ``E_i`` independent exponentials (Efraimidis and Spirakis
    2006, doi:10.1016/j.ipl.2005.11.003). A node of weight 0 is never chosen, so a cohort can be smaller than asked.

    Args:
        weights: node -> weight, finite and at least 0, such as its number of examples; or an array ``[N]`` of
            the weights of the nodes 0 .. N - 1, which a million of them want.
        fraction: share of the nodes, in [0, 1]; give this or ``count``.
        count: nodes a round, at least 0.
        minimum: nodes a round at the least, where ``fraction`` gives fewer.
        default: weight of a node that ``weights`` does not name; without it such a node is an error.
        seed: of the stream.
        stream: name of the stream.

    Raises:
        ValueError: a weight is negative or not finite, or the size is not given exactly once and in range.
    """

    weights: Mapping[int, float] | NDArray[Any]
    fraction: float | None = None
    count: int | None = None
    minimum: int = 1
    default: float | None = None
    seed: int = 0
    stream: str = "cohort"

    def __post_init__(self) -> None:
        """Check weights and size."""
        _check_size(self.fraction, self.count)
        given = np.asarray(list(self.weights.values()) if isinstance(self.weights, Mapping) else self.weights, float)
        bad = np.flatnonzero(~((given >= 0.0) & (given < math.inf)))
        if len(bad):
            node = list(self.weights)[bad[0]] if isinstance(self.weights, Mapping) else bad[0]
            raise ValueError(f"node {node}: a weight must be finite and at least 0, not {given[bad[0]]}")
        if self.default is not None and not 0.0 <= self.default < math.inf:
            raise ValueError(f"default: a weight must be finite and at least 0, not {self.default}")

    def choose(self, server_round: int, node_ids: Sequence[int]) -> list[int]:
        """Give the nodes of a round, sorted.

        Raises:
            KeyError: a node has no weight and there is no ``default``.
        """
        nodes = in_order(node_ids)
        weights = self._weights(nodes)
        size = _size(len(nodes), self.fraction, self.count, self.minimum)
        clocks = streams.stream(self.seed, self.stream, round=server_round).exponential(size=len(nodes))
        with np.errstate(divide="ignore"):
            times = clocks / weights
        return _at(nodes, _earliest(times, min(size, int(np.count_nonzero(weights)))))

    def _weights(self, nodes: Sequence[int]) -> NDArray[np.float64]:
        """Give the weight of each of these nodes."""
        if isinstance(self.weights, Mapping):
            return np.array([self._weight(self.weights.get(int(node)), node) for node in nodes], np.float64)
        ids, known = np.asarray(nodes, np.int64), len(self.weights)
        if not len(ids) or 0 <= ids[0] <= ids[-1] < known:
            return np.asarray(self.weights, np.float64)[ids]
        return np.array([self._weight(self.weights[n] if 0 <= n < known else None, n) for n in ids], np.float64)

    def _weight(self, found: float | None, node: int) -> float:
        weight = self.default if found is None else found
        if weight is None:
            raise KeyError(f"node {node} has no weight; name it in weights or give a default")
        return float(weight)


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
        return _phase(self.seed, self.period, self.groups, node)

    def awake(self, server_round: int, node: int) -> bool:
        """Say whether a node is available in a round (counted from 1)."""
        length = max(1, round(self.window * self.period))
        return (server_round - 1 - self.phase(node)) % self.period < length

    def choose(self, server_round: int, node_ids: Sequence[int]) -> list[int]:
        """Give the nodes of a round."""
        nodes = in_order(node_ids)
        if not isinstance(nodes, range):
            awake = [int(node) for node in nodes if self.awake(server_round, int(node))]
            return self.inner.choose(server_round, awake) if awake else []
        length = max(1, round(self.window * self.period))
        phases = _phases(self.seed, self.period, self.groups, nodes)
        there = np.flatnonzero((server_round - 1 - phases) % self.period < length) * nodes.step + nodes.start
        if not len(there):
            return []
        ours = isinstance(self.inner, UniformCohort | BernoulliCohort | WeightedCohort)
        return self.inner.choose(server_round, cast(Sequence[int], there) if ours else there.tolist())


def _phase(seed: int, period: int, groups: int | None, node: int) -> int:
    number = streams.key(seed, "phase", client=node)
    return number % period if groups is None else number % groups * period // groups


@lru_cache(maxsize=4)
def _phases(seed: int, period: int, groups: int | None, nodes: range) -> NDArray[np.int64]:
    """Give the phases of a range of nodes: they never change, and a million of them take seconds to find."""
    return np.fromiter((_phase(seed, period, groups, node) for node in nodes), np.int64, len(nodes))


def in_order(node_ids: Iterable[int]) -> Sequence[int]:
    """Give node ids in rising order; a range that rises is as it is, and an array stays one."""
    if isinstance(node_ids, range) and node_ids.step > 0:
        return node_ids
    # an array has all that is asked of a sequence here: a length, and places
    return cast(Sequence[int], np.sort(node_ids)) if isinstance(node_ids, np.ndarray) else sorted(node_ids)


def _at(nodes: Sequence[int], places: NDArray[np.int64]) -> list[int]:
    """Give the nodes at places."""
    if isinstance(nodes, range):
        return cast(list[int], (places * nodes.step + nodes.start).tolist())
    if isinstance(nodes, np.ndarray):
        return cast(list[int], nodes[places].tolist())
    return [int(nodes[place]) for place in places.tolist()]


def _earliest(times: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Give the places of the ``count`` smallest times in rising order of place; among equals the first ones win."""
    if count <= 0:
        return np.empty(0, np.int64)
    if count >= len(times):
        return np.arange(len(times))
    last = np.partition(times, count - 1)[count - 1]
    before = np.flatnonzero(times < last)
    equal = np.flatnonzero(times == last)[: count - len(before)]
    return np.sort(np.concatenate([before, equal]))


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
