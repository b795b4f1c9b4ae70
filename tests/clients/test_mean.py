"""Means of models, some of whose tensors come as means already, against numpy's weighted mean."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from fedmomentum.clients.mean import RunningMean

WEIGHTS = [[1.0, 3.0], [2.0], [0.5, 0.25, 4.0]]


def groups(dtype):
    """Give three groups of clients, each with a tensor that is stacked and one that could come as its mean."""
    rng = np.random.default_rng(0)
    return [
        (torch.from_numpy(rng.standard_normal((len(w), 3, 2))).to(dtype), torch.tensor(w, dtype=torch.float64))
        for w in WEIGHTS
    ]


def mean_of(x_K, weights_K):
    return np.average(x_K.double(), axis=0, weights=weights_K)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("as_means", [(), (0,), (0, 1), (0, 1, 2)])
def test_means_stacks_and_single_models_give_one_mean(order, as_means):
    many, running = groups(torch.float64), RunningMean()
    for k in order:
        x_K, weights_K = many[k]
        if k in as_means:
            running.add_stacked({"b": 2 * x_K}, weights_K.tolist(), {"a": torch.from_numpy(mean_of(x_K, weights_K))})
        elif k == 1:
            running.add({"a": x_K[0], "b": 2 * x_K[0]}, float(weights_K[0]))
        else:
            running.add_stacked({"a": x_K, "b": 2 * x_K}, weights_K.tolist())
    everything, weights = torch.cat([x for x, _ in many]), np.concatenate(WEIGHTS)
    found = running.value()
    for name, factor in (("a", 1), ("b", 2)):
        np.testing.assert_allclose(found[name], factor * mean_of(everything, weights), rtol=1e-13)


def test_a_mean_that_stays_alone_is_the_mean_to_the_bit():
    x_K, weights_K = groups(torch.float32)[2]
    alone = RunningMean()
    alone.add_stacked({"b": x_K}, weights_K.tolist(), {"a": x_K[1]})
    found = alone.value()
    np.testing.assert_array_equal(found["a"], x_K[1])
    assert found["a"].dtype == found["b"].dtype == torch.float32


def test_no_weight_no_mean():
    nothing = RunningMean()
    assert nothing.value() is None
    nothing.add_stacked({}, [0.0, 0.0], {"a": torch.ones(2)})
    assert nothing.value() is None
