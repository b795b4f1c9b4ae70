"""What holds of partitions in distribution: closed forms of the Dirichlet distribution, and both its limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmomentum.data import partition, summarise
from fedmomentum.data.dirichlet import _draw_labels, apportion, log_dirichlet

BALANCED = np.arange(10_000) % 10
SKEWED = np.repeat(np.arange(4), [8000, 6000, 4000, 2000])


@pytest.mark.parametrize("scale", [0.05, 1.0, 40.0])
def test_log_dirichlet_has_the_moments_of_the_dirichlet(scale: float) -> None:
    a = scale * np.array([0.5, 1.0, 2.5])
    log_w = log_dirichlet(np.random.default_rng(0), a, (40_000, 3))
    w = np.exp(log_w - log_w.max(axis=1, keepdims=True))
    w /= w.sum(axis=1, keepdims=True)
    mean = a / a.sum()
    variance = mean * (1 - mean) / (a.sum() + 1)
    assert w.mean(axis=0) == pytest.approx(mean, abs=5 * np.sqrt(variance.max() / len(w)))
    assert w.var(axis=0) == pytest.approx(variance, rel=0.06)


def test_log_dirichlet_stays_finite_where_gamma_variates_are_zero() -> None:
    log_w = log_dirichlet(np.random.default_rng(0), 1e-200, (1000, 5))
    assert np.isfinite(log_w).all()
    winners = np.bincount(log_w.argmax(axis=1), minlength=5)
    assert winners.min() > 150  # one-hot in the limit, each class with the same probability


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_hsu_counts_are_dirichlet_multinomial(alpha: float) -> None:
    """Var(X_k / n) = p_k (1 - p_k) (n + alpha) / (n (1 + alpha)) while no class runs out."""
    size, clients = 8, 1000
    shares = np.concatenate(
        [
            summarise(SKEWED, split, 4).counts / size
            for split in (
                partition(
                    "dirichlet", labels=SKEWED, clients=clients // 4, alpha=alpha, examples_per_client=size, seed=s
                )
                for s in range(8)
            )
        ]
    )
    p = np.array([0.4, 0.3, 0.2, 0.1])
    variance = p * (1 - p) * (size + alpha) / (size * (1 + alpha))
    assert shares.mean(axis=0) == pytest.approx(p, abs=5 * np.sqrt(variance.max() / len(shares)))
    assert shares.var(axis=0) == pytest.approx(variance, rel=0.15)


@given(seed=st.integers(0, 10_000), classes=st.integers(1, 5), clients=st.integers(1, 7), size=st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_hsu_draws_are_those_of_the_plain_loop(seed: int, classes: int, clients: int, size: int) -> None:
    """One example after another, each from what is left: the definition, with the same random numbers."""
    rng = np.random.default_rng(seed)
    stock = np.bincount(rng.integers(0, classes, clients * size + int(rng.integers(0, 4))), minlength=classes)
    log_q = log_dirichlet(rng, 0.5, (clients, classes))
    uniforms = rng.random((clients, size))
    drawn, left = np.empty((clients, size), np.uint8), stock.copy()
    _draw_labels(drawn, log_q, uniforms, left)

    expected, remaining = [], stock.copy()
    for client in range(clients):
        for u in uniforms[client]:
            # Classes whose weight is 0 beside the others cannot be told from closed ones, so compare from the largest.
            open_ = np.flatnonzero(remaining)
            q = np.exp(log_q[client, open_] - log_q[client, open_].max())
            k = open_[np.searchsorted(np.cumsum(q), u * q.sum(), side="right")]
            remaining[k] -= 1
            expected.append(k)
    assert drawn.reshape(-1).tolist() == expected
    assert left.tolist() == remaining.tolist()


def test_hsu_gives_every_example_to_somebody_when_sizes_divide() -> None:
    split = partition("dirichlet", labels=SKEWED, clients=500, alpha=0.05)
    assert sorted(split.order.tolist()) == list(range(len(SKEWED)))


@pytest.mark.parametrize("name", ["dirichlet", "dirichlet_per_class"])
def test_examples_of_a_class_are_dealt_out_in_random_order(name: str) -> None:
    """The numbers of a class's examples, read client by client, do not correlate with their place."""
    split = partition(name, labels=np.zeros(4000, np.int64), clients=200, alpha=5.0)
    means = [split.indices(c).mean() for c in range(200) if split.sizes[c]]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_parts_of_a_class_have_the_moments_of_the_dirichlet(alpha: float) -> None:
    """Part of a class at a client: mean 1/C, variance (1/C)(1 - 1/C) / (C alpha + 1)."""
    clients, classes = 8, 400
    labels = np.repeat(np.arange(classes), 500)
    split = partition("dirichlet_per_class", labels=labels, clients=clients, alpha=alpha, min_examples=0)
    parts = summarise(labels, split, classes).counts / 500
    variance = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    assert parts.mean(axis=1) == pytest.approx(np.full(clients, 1 / clients), abs=5 * np.sqrt(variance / classes))
    assert parts.var() == pytest.approx(variance, rel=0.12)


def test_balance_keeps_full_clients_out_of_later_classes() -> None:
    options = {"labels": BALANCED, "clients": 20, "alpha": 0.3, "min_examples": 0}
    wide, narrow = (partition("dirichlet_per_class", **options, balance=flag) for flag in (False, True))  # type: ignore[arg-type]
    assert narrow.sizes.std() < wide.sizes.std()
    counts = summarise(BALANCED, narrow, 10).counts
    before = np.cumsum(counts, axis=1) - counts
    assert (counts[before > 500] == 0).all()
    assert (summarise(BALANCED, wide, 10).counts[before > 500] > 0).any()


def test_top_up_moves_no_more_than_is_lacking() -> None:
    options = {"labels": BALANCED[:600], "clients": 100, "alpha": 0.02}
    raw = partition("dirichlet_per_class", **options, min_examples=0)  # type: ignore[arg-type]
    full = partition("dirichlet_per_class", **options, min_examples=3)  # type: ignore[arg-type]
    before, after = np.empty(600, int), np.empty(600, int)
    before[raw.order], after[full.order] = raw.owners(), full.owners()
    lacking = np.maximum(3 - raw.sizes, 0)
    assert lacking.sum() > 0
    assert np.array_equal(full.sizes[lacking > 0], np.full((lacking > 0).sum(), 3))
    assert (before != after).sum() == lacking.sum()
    givers = np.flatnonzero(full.sizes < raw.sizes)
    assert full.sizes[givers].min() >= full.sizes.max() - 1  # the largest are levelled, nobody else gives


def test_top_up_changes_nothing_where_nobody_is_short() -> None:
    a, b = (
        partition("dirichlet_per_class", labels=BALANCED, clients=10, alpha=5.0, min_examples=m).order for m in (0, 100)
    )
    assert np.array_equal(a, b)


@pytest.mark.parametrize("name", ["dirichlet", "dirichlet_per_class"])
def test_both_limits_of_alpha(name: str) -> None:
    flat = summarise(BALANCED, partition(name, labels=BALANCED, clients=10, alpha=1e6), 10)
    assert flat.total_variation < 0.05
    assert np.median(flat.effective_classes) > 9.9  # Hsu's last client takes what the others left
    peaked = summarise(BALANCED, partition(name, labels=BALANCED, clients=1000, alpha=1e-4), 10)
    assert peaked.total_variation > 0.85
    assert np.median(peaked.effective_classes) < 1.01


def test_tv_falls_as_alpha_grows() -> None:
    for name in ("dirichlet", "dirichlet_per_class"):
        values = [
            summarise(BALANCED, partition(name, labels=BALANCED, clients=50, alpha=a), 10).total_variation
            for a in (0.03, 0.3, 3, 300)
        ]
        assert values == sorted(values, reverse=True)


def test_mcmahan_shards() -> None:
    """Classes that fill whole shards: at most shards_per_client classes; else one more a border."""
    for each in (1, 2, 5):
        aligned = partition("shards", labels=BALANCED, clients=100, shards_per_client=each)
        assert set(aligned.sizes.tolist()) == {100}
        assert (summarise(BALANCED, aligned, 10).counts > 0).sum(axis=1).max() <= each
    labels = np.random.default_rng(0).integers(0, 7, 1003)
    pairs = (summarise(labels, partition("shards", labels=labels, clients=30), 7).counts > 0).sum()
    assert pairs <= 60 + 6


def test_shards_are_dealt_out_at_random() -> None:
    counts = summarise(BALANCED, partition("shards", labels=BALANCED, clients=1000, shards_per_client=2), 10).counts
    two = ((counts > 0).sum(axis=1) == 2).mean()
    assert two == pytest.approx(0.9, abs=0.05)  # the second shard is of another class with probability 0.9


def test_quantity_sizes_follow_their_law_and_labels_stay_iid() -> None:
    sizes = partition("quantity", labels=np.zeros(200_000), clients=2000, sigma=1.0, min_examples=0).sizes
    assert np.log(sizes + 0.5).std() == pytest.approx(1.0, abs=0.06)
    shares = partition("quantity", labels=np.zeros(200_000), clients=2000, alpha=2.0, min_examples=0).sizes / 200_000
    assert shares.var() == pytest.approx((1 / 2000) * (1 - 1 / 2000) / 4001, rel=0.15)
    assert np.ptp(partition("quantity", labels=np.zeros(1003), clients=10, sigma=0).sizes) <= 1
    skewed = partition("quantity", labels=BALANCED, clients=5, alpha=1.0)
    assert summarise(BALANCED, skewed, 10).total_variation < 0.08


def test_iid_is_uniform_over_clients() -> None:
    """Two given examples share a client with probability (N/C - 1) / (N - 1)."""
    together = 0
    for seed in range(3000):
        owner = np.empty(12, int)
        split = partition("iid", labels=np.zeros(12), clients=3, seed=seed)
        owner[split.order] = split.owners()
        together += owner[0] == owner[1]
    assert together / 3000 == pytest.approx(3 / 11, abs=0.035)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=20), st.integers(0, 1000))
def test_apportioned_parts_are_within_one_of_their_weights(log_weights: list[float], total: int) -> None:
    ends = apportion(np.array(log_weights), total)
    parts = np.diff(ends, prepend=0)
    exact = total * np.exp(log_weights) / np.exp(log_weights).sum()
    assert ends[-1] == total
    assert (parts >= 0).all()
    assert np.abs(parts - exact).max() < 1 + 1e-9
