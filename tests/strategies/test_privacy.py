"""Differential privacy: what the mechanism does to a round, what it is said to cost, and what it refuses."""

from __future__ import annotations

import builtins
import math

import numpy as np
import pytest
from scipy import optimize, stats

from fedmomentum.errors import UserError
from fedmomentum.strategies import BernoulliCohort, FedAvg, FedAvgM, FedDyn, Privacy, Scaffold, SlowMo, UniformCohort
from fedmomentum.strategies import privacy as module

COINS = BernoulliCohort(probability=0.5, redraw=False, seed=1)
X = {"w": np.zeros((40, 50), np.float32), "bn.running_var": np.ones(3, np.float32)}


def private(cls=FedAvg, *, cohort=COINS, clip=1.0, noise=1e-9, **options):
    chosen = Privacy(clip=clip, noise_multiplier=noise)
    return cls(privacy=chosen, cohort=cohort, fraction_evaluate=0.0, min_available_nodes=1, **options)


def moved(by, weight=1):
    return lambda training: training(lambda x, r: {**x, "w": x["w"] + np.float32(by)}, weight=weight)


def test_updates_are_clipped_and_summed_over_the_expected_cohort(grid_of, training, play):
    """Of ten clients half are expected; every one counts alike, and one long update counts as one of length ``S``."""
    length = math.sqrt(X["w"].size)
    clients = {n: moved(0.001, weight=n)(training) for n in range(1, 11)}
    clients[3] = moved(-5.0, weight=1000)(training)
    cohort = COINS.choose(1, range(1, 11))
    assert 3 in cohort and len(cohort) != 5
    (found,) = play(private(clip=0.5), grid_of(clients), X, [1])
    expected = ((len(cohort) - 1) * 0.001 - 0.5 / length) / 5
    np.testing.assert_allclose(found["w"], expected, rtol=1e-5)
    np.testing.assert_array_equal(found["bn.running_var"], X["bn.running_var"])


def test_the_noise_is_gaussian_of_the_right_size_and_a_function_of_seed_and_round(grid_of, training, play):
    clients = {n: moved(0.0)(training) for n in range(1, 11)}

    def noise(seed, rounds=(1, 2)):
        path = play(private(clip=0.3, noise=2.0, seed=seed), grid_of(clients), X, rounds)
        return [path[0]["w"], path[1]["w"] - path[0]["w"]]

    first, second = noise(4)
    scale = 2.0 * 0.3 / (0.5 * 10)
    assert stats.kstest(first.reshape(-1) / scale, "norm").pvalue > 0.01
    assert stats.kstest(second.reshape(-1) / scale, "norm").pvalue > 0.01
    assert abs(np.corrcoef(first.reshape(-1), second.reshape(-1))[0, 1]) < 0.1
    np.testing.assert_array_equal(first, noise(4)[0])
    assert abs(np.corrcoef(first.reshape(-1), noise(5)[0].reshape(-1))[0, 1]) < 0.1


def test_a_round_without_anybody_is_noise_and_costs_the_same(grid_of, training, play):
    nobody = BernoulliCohort(probability=1e-9, redraw=False)
    strategy = private(cohort=nobody, noise=1.0)
    (found,) = play(strategy, grid_of({1: moved(1.0)(training)}), X, [1])
    assert strategy.accepted == 0 and found["w"].std() > 0.0


def test_momentum_runs_over_what_is_private_already(grid_of, training, play):
    clients = {n: moved(0.001)(training) for n in range(1, 11)}
    plain = play(private(noise=1.0, seed=2), grid_of(clients), X, [1, 2])
    heavy = play(private(FedAvgM, noise=1.0, seed=2, server_momentum=0.9), grid_of(clients), X, [1, 2])
    steps = [plain[0]["w"], plain[1]["w"] - plain[0]["w"]]  # clients move alike wherever they start
    np.testing.assert_allclose(heavy[1]["w"], steps[0] + 0.9 * steps[0] + steps[1], rtol=1e-4, atol=1e-6)


def test_epsilon_is_in_the_metrics_and_grows_with_the_rounds(grid_of, training, record):
    from flwr.app import ConfigRecord

    pytest.importorskip("opacus")
    strategy, grid = private(noise=1.0), grid_of({n: moved(0.0)(training) for n in range(1, 11)})
    spent = []
    for number in range(1, 4):
        messages = strategy.configure_train(number, record(X), ConfigRecord(), grid)
        _, metrics = strategy.aggregate_train(number, grid.send_and_receive(messages))
        assert metrics["delta"] == 1e-5
        spent.append(metrics["epsilon"])
    assert 0 < spent[0] < spent[1] < spent[2]
    assert spent[2] == Privacy(clip=1.0, noise_multiplier=1.0).epsilon(probability=0.5, rounds=3)


def test_without_sampling_epsilon_is_near_the_exact_one_of_the_gaussian_mechanism():
    """``T`` rounds of noise ``z`` are one of noise ``z / sqrt(T)``, whose exact epsilon has a closed form
    (Balle and Wang 2018, arXiv:1805.06530); Renyi accounting is an upper bound within a few per cent."""
    pytest.importorskip("opacus")
    z, rounds, delta = 5.0, 20, 1e-5
    sigma = z / math.sqrt(rounds)

    def excess(epsilon):
        a, b = 1 / (2 * sigma), epsilon * sigma
        return stats.norm.cdf(a - b) - math.exp(epsilon) * stats.norm.cdf(-a - b) - delta

    exact = optimize.brentq(excess, 0.01, 50)
    found = Privacy(clip=1.0, noise_multiplier=z, delta=delta).epsilon(probability=1.0, rounds=rounds)
    assert exact < found < 1.1 * exact
    sampled = Privacy(clip=1.0, noise_multiplier=z, delta=delta).epsilon(probability=0.1, rounds=rounds)
    assert sampled < 0.3 * found  # amplified by sampling


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: private(cohort=UniformCohort(count=3)), "BernoulliCohort"),
        (lambda: private(cohort=BernoulliCohort(probability=0.5)), "redraw=False"),
        (lambda: private(quorum=2), "quorum"),
        (lambda: private(clip_update=1.0), "clip_update"),
        (lambda: private(Scaffold), "averages more than models"),
        (lambda: private(SlowMo), "more than the mean"),
        (lambda: private(FedDyn), "more than the mean"),
        (lambda: Privacy(clip=0.0, noise_multiplier=1.0), "clip"),
        (lambda: Privacy(clip=1.0, noise_multiplier=math.inf), "noise_multiplier"),
        (lambda: Privacy(clip=1.0, noise_multiplier=1.0, delta=1.0), "delta"),
    ],
)
def test_what_the_guarantee_does_not_cover_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_an_accountant_that_is_missing_is_said_before_anything_runs(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("opacus"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    module._divergences.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'fedmomentum\[privacy\]'"):
        private()


def test_independent_coins_may_leave_everybody_out():
    cohort = BernoulliCohort(probability=0.3, redraw=False, seed=7)
    sizes = np.array([len(cohort.choose(r, range(4))) for r in range(1, 4001)])
    counts = np.bincount(sizes, minlength=5)
    assert stats.chisquare(counts, 4000 * stats.binom.pmf(range(5), 4, 0.3)).pvalue > 0.01
