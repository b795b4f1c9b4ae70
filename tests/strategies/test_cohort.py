"""Samplers: functions of seed, round and the set of nodes, with the laws that they state."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from fedmomentum.strategies import BernoulliCohort, Cohort, CyclicCohort, UniformCohort, WeightedCohort
from fedmomentum.strategies.cohort import _earliest, in_order
from fedmomentum.strategies.nodes import choose

NODES = list(range(100, 112))
WEIGHTS = {node: float(node - 99) for node in NODES}
COHORTS = [
    UniformCohort(fraction=0.5),
    UniformCohort(count=3, seed=5),
    BernoulliCohort(probability=0.3),
    WeightedCohort(weights=WEIGHTS, count=4),
    CyclicCohort(inner=UniformCohort(count=2), period=6, groups=3),
]


@pytest.mark.parametrize("cohort", COHORTS, ids=lambda c: type(c).__name__)
def test_a_cohort_depends_on_seed_round_and_the_set_of_nodes(cohort):
    assert isinstance(cohort, Cohort)
    shuffled = list(np.random.default_rng(0).permutation(NODES))
    history = [cohort.choose(r, NODES) for r in range(1, 30)]
    assert [cohort.choose(r, shuffled) for r in range(1, 30)] == history
    assert [type(cohort)(**vars(cohort)).choose(r, NODES) for r in range(29, 0, -1)] == history[::-1]
    assert len({tuple(chosen) for chosen in history}) > 3
    for chosen in history:
        assert chosen == sorted(set(chosen))
        assert set(chosen) <= set(NODES)
        assert all(type(node) is int for node in map(int, chosen))


ARRAY = np.random.default_rng(1).integers(0, 4, 300)
AS_DICT = {node: float(weight) for node, weight in enumerate(ARRAY)}


@pytest.mark.parametrize(
    "make",
    [
        lambda weights: UniformCohort(fraction=0.1),
        lambda weights: BernoulliCohort(probability=0.05),
        lambda weights: BernoulliCohort(probability=1.0),
        lambda weights: WeightedCohort(weights=weights, count=20),
        lambda weights: WeightedCohort(weights=weights, fraction=1.0),
        lambda weights: CyclicCohort(inner=WeightedCohort(weights=weights, count=9), period=24, window=0.3),
        lambda weights: CyclicCohort(inner=BernoulliCohort(probability=0.2), period=6, groups=3),
    ],
)
def test_a_range_and_an_array_of_weights_choose_what_lists_and_dicts_do(make):
    for server_round in range(1, 20):
        chosen = make(ARRAY).choose(server_round, range(300))
        assert chosen == make(AS_DICT).choose(server_round, list(range(300))[::-1])
        assert all(type(node) is int for node in chosen)


def test_a_range_of_nodes_is_never_a_list():
    registered = range(0, 3 * 10**12, 3)
    chosen = choose(UniformCohort(count=5), 1, in_order(registered))
    assert len(chosen) == 5
    assert all(node in registered for node in chosen)


@pytest.mark.parametrize("cohort", [UniformCohort(fraction=1.0), BernoulliCohort(probability=1.0)])
def test_when_all_of_a_range_take_part_they_stay_a_range(cohort):
    for registered in (range(10), range(3, 40, 4)):
        assert cohort.choose(1, registered) == list(registered)
        assert choose(cohort, 1, registered) is registered
        assert choose(cohort, 1, list(registered)) == list(registered)
    assert choose(UniformCohort(count=9), 1, range(10)) == UniformCohort(count=9).choose(1, range(10))
    assert choose(UniformCohort(count=0), 1, range(10)) == []


def test_a_tie_goes_to_the_first_place():
    times = np.array([2.0, 1.0, 2.0, 0.5, 2.0, np.inf])
    assert [_earliest(times, k).tolist() for k in range(7)] == [
        [], [3], [1, 3], [0, 1, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "nodes", "size"),
    [
        ({"fraction": 0.29}, 100, 29),
        ({"fraction": 0.5}, 5, 2),
        ({"fraction": 0.01}, 20, 1),
        ({"fraction": 0.1, "minimum": 4}, 20, 4),
        ({"fraction": 1.0}, 7, 7),
        ({"count": 5}, 3, 3),
        ({"count": 0}, 3, 0),
        ({"fraction": 0.5}, 0, 0),
    ],
)
def test_sizes(options, nodes, size):
    assert len(UniformCohort(**options).choose(1, range(nodes))) == size
    if nodes:
        weights = dict.fromkeys(range(nodes), 1.0)
        assert len(WeightedCohort(weights=weights, **options).choose(1, range(nodes))) == size


def test_every_subset_is_equally_likely():
    cohort = UniformCohort(count=2)
    pairs = list(itertools.combinations(range(5), 2))
    draws = [tuple(cohort.choose(r, range(5))) for r in range(1, 4001)]
    assert stats.chisquare([draws.count(pair) for pair in pairs]).pvalue > 1e-3


def test_bernoulli_has_the_law_of_redrawing_until_somebody_comes():
    """Given that somebody comes, every non-empty subset S has probability p^|S| (1-p)^(n-|S|) / (1 - (1-p)^n)."""
    p, nodes, rounds = 0.2, range(4), 6000
    draws = [tuple(BernoulliCohort(probability=p).choose(r, nodes)) for r in range(1, rounds + 1)]
    subsets = [s for size in range(1, 5) for s in itertools.combinations(nodes, size)]
    expected = np.array([p ** len(s) * (1 - p) ** (4 - len(s)) for s in subsets]) / (1 - (1 - p) ** 4)
    assert stats.chisquare([draws.count(s) for s in subsets], expected * rounds).pvalue > 1e-3
    assert BernoulliCohort(probability=1.0).choose(1, NODES) == NODES
    rare = [BernoulliCohort(probability=1e-12).choose(r, NODES) for r in range(1, 50)]
    assert all(len(chosen) == 1 for chosen in rare)
    assert len({chosen[0] for chosen in rare}) > 6
    assert BernoulliCohort(probability=0.5).choose(1, []) == []


def test_weighted_draws_are_one_after_another_in_proportion():
    """P(i first, then j) = w_i/W w_j/(W - w_i); the pair comes in either order."""
    weights = {0: 1.0, 1: 2.0, 2: 5.0, 3: 0.0}
    cohort = WeightedCohort(weights=weights, count=2)
    draws = [tuple(cohort.choose(r, range(4))) for r in range(1, 6001)]
    total = sum(weights.values())
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = [
        sum(weights[i] / total * weights[j] / (total - weights[i]) for i, j in (pair, pair[::-1])) for pair in pairs
    ]
    assert stats.chisquare([draws.count(pair) for pair in pairs], np.array(expected) * 6000).pvalue > 1e-3
    assert WeightedCohort(weights=weights, count=4).choose(1, range(4)) == [0, 1, 2]


def test_nodes_without_a_weight():
    with pytest.raises(KeyError, match="node 9 has no weight"):
        WeightedCohort(weights={1: 1.0}, count=1).choose(1, [1, 9])
    chosen = [WeightedCohort(weights={1: 0.0}, default=2.0, count=1).choose(r, [1, 9]) for r in range(9)]
    assert chosen == [[9]] * 9


@pytest.mark.parametrize("groups", [None, 1, 4])
@pytest.mark.parametrize(("window", "length"), [(0.25, 2), (0.5, 4), (1.0, 8), (0.01, 1)])
def test_every_node_is_awake_for_one_stretch_of_the_day(groups, window, length):
    cohort = CyclicCohort(period=8, window=window, groups=groups, seed=3)
    phases = {cohort.phase(node) for node in range(200)}
    assert phases == ({0, 2, 4, 6} if groups == 4 else {0} if groups == 1 else set(range(8)))
    for node in range(20):
        hours = [cohort.awake(r, node) for r in range(1, 25)]
        assert hours[:8] == hours[8:16] == hours[16:]
        assert sum(hours[:8]) == length
        start = cohort.phase(node)
        assert all(hours[start + k] for k in range(length))
    for server_round in range(1, 9):
        awake = [node for node in range(200) if cohort.awake(server_round, node)]
        assert cohort.choose(server_round, range(200)) == awake


def test_cyclic_wraps_any_cohort():
    cyclic = CyclicCohort(inner=WeightedCohort(weights={**WEIGHTS, 105: 0.0}, count=3), period=4, window=0.5)
    for server_round in range(1, 9):
        chosen = cyclic.choose(server_round, NODES)
        assert len(chosen) <= 3
        assert 105 not in chosen
        assert all(cyclic.awake(server_round, node) for node in chosen)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: UniformCohort(), "either fraction or count"),
        (lambda: UniformCohort(fraction=0.5, count=3), "either fraction or count"),
        (lambda: UniformCohort(fraction=1.1), r"fraction must be in \[0, 1\], not 1.1"),
        (lambda: UniformCohort(count=-1), "count must be at least 0, not -1"),
        (lambda: BernoulliCohort(probability=0.0), r"probability must be in \(0, 1\], not 0.0"),
        (lambda: WeightedCohort(weights={4: -1.0}, count=1), "node 4: a weight must be finite and at least 0, not -1"),
        (lambda: WeightedCohort(weights={4: float("nan")}, count=1), "node 4: a weight must be finite"),
        (lambda: CyclicCohort(period=0), "period must be at least 1"),
        (lambda: CyclicCohort(period=5, window=0.0), r"window must be in \(0, 1\], not 0.0"),
        (lambda: CyclicCohort(period=5, groups=6), r"groups must be in \[1, period = 5\], not 6"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
