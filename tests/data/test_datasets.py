"""The data sets that are made or come with a library, and what every data set promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from fedmomentum.data import DATASETS, Dataset, load
from fedmomentum.data.dataset import held_out
from fedmomentum.errors import UserError


def small(**changes: Any) -> Dataset:
    arrays: dict[str, Any] = {
        "x": np.arange(12, dtype=np.float32).reshape(6, 2),
        "y": np.array([0, 1, 2, 0, 1, 2]),
        "test_x": np.ones((2, 2), np.float32),
        "test_y": np.array([2, 0]),
        "classes": 3,
        "groups": np.array([0, 0, 1, 1, 2, 2]),
    }
    return Dataset("small", **(arrays | changes))


def test_checksum_knows_values_types_and_shapes_but_not_machines() -> None:
    first = small()
    assert first.checksum == small().checksum == small(x=first.x.astype(">f4"), y=np.asfortranarray(first.y)).checksum
    others = [
        small(x=first.x + np.float32(1e-6)),
        small(x=first.x.astype(np.float64)),
        small(y=first.y[::-1].copy()),
        small(test_x=np.zeros((2, 2), np.float32)),
        small(test_y=np.array([2, 1])),
        small(groups=None),
        small(groups=np.array([0, 0, 1, 1, 2, 1])),
        small(x=first.x.reshape(6, 2, 1), test_x=first.test_x.reshape(2, 2, 1)),
    ]
    assert len({first.checksum, *(other.checksum for other in others)}) == 1 + len(others)
    assert len(first.checksum) == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.zeros(5, int)}, "x has 6 examples but y has 5 labels"),
        ({"y": np.zeros(6)}, "y has dtype float64; labels must be integers"),
        ({"classes": 2}, "y has labels from 0 to 2; with 2 classes they must lie in 0 .. 1"),
        ({"test_y": np.array([-1, 0])}, "test_y has labels from -1 to 0"),
        ({"test_x": np.ones((2, 3))}, "an example of x has shape [2] but one of test_x has [3]"),
        ({"test_x": np.ones((0, 2)), "test_y": np.zeros(0, int)}, "test_x holds no examples"),
        ({"groups": np.zeros(5, int)}, "groups has shape [5]; one number a training example is needed: [6]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        small(**changes)
    assert f"data set 'small': {message}" in str(caught.value)


@pytest.mark.parametrize("fraction", [0.1, 0.35, 0.5])
@pytest.mark.parametrize("sizes", [[30, 50, 7], [3, 3, 3, 3], [1, 1, 40]])
def test_held_out_is_stratified(sizes: list[int], fraction: float) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    train, test = held_out(labels, fraction, seed=1)
    assert sorted([*train, *test]) == list(range(len(labels)))
    assert len(test) == round(fraction * len(labels))
    assert np.abs(np.bincount(labels[test], minlength=len(sizes)) - fraction * np.array(sizes)).max() < 1
    assert np.array_equal(held_out(labels, fraction, seed=1)[1], test)
    assert not np.array_equal(held_out(labels, fraction, seed=2)[1], test)


def test_held_out_leaves_both_parts_something() -> None:
    with pytest.raises(UserError, match=r"test_fraction = 0\.1 of 3 examples leaves 0 to test and 3 to train"):
        held_out(np.zeros(3, np.int64), 0.1, seed=0)


def test_digits_are_those_of_scikit_learn() -> None:
    data, raw = load("digits"), load_digits()
    assert data.x.dtype == np.float32
    assert data.input_shape == (1, 8, 8)
    ours = np.column_stack([np.concatenate([data.x, data.test_x]).reshape(-1, 64) * 16, [*data.y, *data.test_y]])
    theirs = np.column_stack([raw.data, raw.target])
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
    assert np.abs(np.bincount(data.test_y) - 0.2 * np.bincount(raw.target)).max() < 1
    assert len(load("digits", test_fraction=0.5).test_y) == pytest.approx(1797 / 2, abs=1)
    assert load("digits").checksum == data.checksum != load("digits", seed=1).checksum


SMALL = {"alpha": 1.0, "beta": 1.0, "size_mean": 3.0, "size_sigma": 0.3}


def test_synthetic_clients_do_not_depend_on_how_many_there_are() -> None:
    few, many = (load("synthetic", clients=c, **SMALL) for c in (3, 9))
    assert few.groups is not None and many.groups is not None
    part = many.groups < 3
    assert np.array_equal(few.x, many.x[part])
    assert np.array_equal(few.y, many.y[part])
    assert not np.array_equal(few.x, load("synthetic", clients=3, seed=1, **SMALL).x)
    assert (few.x.shape[1], few.classes, few.x.dtype, few.y.dtype) == (60, 10, np.float32, np.int64)


@pytest.mark.parametrize("beta", [0.0, 4.0])
def test_synthetic_inputs_have_the_stated_variances(beta: float) -> None:
    """Between clients Var v_kj = 1 + beta and Cov(v_ki, v_kj) = beta; within a client Var x_j = j^-1.2."""
    clients, dim = 1500, 4
    data = load(
        "synthetic", alpha=0, beta=beta, clients=clients, dim=dim, classes=2, size_mean=0, size_sigma=0, size_min=40
    )
    assert data.groups is not None
    held = np.bincount(data.groups)[:, None]
    means = np.stack([np.bincount(data.groups, column) for column in data.x.T], axis=1) / held
    noise = np.arange(1, dim + 1) ** -1.2
    within = ((data.x - means[data.groups]) ** 2).sum(axis=0) / (len(data.x) - clients)
    assert within == pytest.approx(noise, rel=0.03)
    covariance = np.cov(means.T)
    expected = beta + np.diag(1 + noise / held[0])
    assert covariance == pytest.approx(expected, abs=0.12 * (1 + beta))


def test_synthetic_sizes_are_log_normal_above_the_minimum() -> None:
    data = load(
        "synthetic", alpha=0, beta=0, clients=1000, dim=1, classes=2, size_mean=3, size_sigma=0.5, test_fraction=1e-9
    )
    assert data.groups is not None
    sizes = np.bincount(data.groups) + 1  # one of each client is held out
    assert sizes.min() >= 50
    assert np.log(sizes - 50 + 0.5).mean() == pytest.approx(3.0, abs=0.06)
    assert np.log(sizes - 50 + 0.5).std() == pytest.approx(0.5, abs=0.05)
    assert len(data.test_y) == 1000


def test_synthetic_models_are_shared_only_if_iid() -> None:
    """One linear model explains all clients if iid, and only each its own otherwise."""

    def accuracy(data: Dataset, rows: Any) -> float:
        model = LogisticRegression(C=1e3, max_iter=300).fit(data.x[rows], data.y[rows])
        return float(model.score(data.x[rows], data.y[rows]))

    options: dict[str, Any] = {"alpha": 0, "beta": 0, "clients": 12, "dim": 10, "classes": 3, "size_sigma": 0.1}
    own, shared = load("synthetic", **options), load("synthetic", iid=True, **options)
    assert accuracy(shared, slice(None)) > 0.98
    assert accuracy(own, slice(None)) < 0.8
    assert accuracy(own, own.groups == 0) > 0.98


def test_synthetic_alpha_moves_all_logits_alike() -> None:
    assert np.array_equal(*(load("synthetic", clients=5, **SMALL | {"alpha": a}).y for a in (0.0, 1.0)))


def test_synthetic_holds_out_its_part_of_every_client() -> None:
    data = load("synthetic", clients=6, alpha=1, beta=1, size_mean=0, size_sigma=0, size_min=9, test_fraction=0.3)
    assert data.groups is not None
    assert np.bincount(data.groups).tolist() == [7] * 6  # 10 a client, of which 3 are held out
    assert len(data.test_x) == 18


def test_least_squares_clients_have_the_optima_scales_and_noise_that_are_asked_for() -> None:
    """Uncorrelated inputs: X'X / n = diag(s^2), so each optimum is w_k plus noise of variance noise^2 / (n s^2)."""
    clients, dim, size = 400, 3, 12
    settings: dict[str, Any] = {"clients": clients, "dim": dim, "examples_per_client": size, "spread": 0.4}
    data = load("least_squares", **settings, heterogeneity=2.0, noise=0.5, correlated=False)
    x, y = data.x.reshape(clients, size, dim).astype(float), data.y.reshape(clients, size).astype(float)
    curvatures = np.einsum("cni,cnj->cij", x, x) / size
    squares = np.diagonal(curvatures, axis1=1, axis2=2)
    np.testing.assert_allclose(curvatures, np.einsum("ci,ij->cij", squares, np.eye(dim)), atol=1e-5)
    assert np.log(squares).std() / 2 == pytest.approx(0.4, rel=0.1)  # 1200 numbers: 4 errors are 8 per cent
    optima = np.einsum("cni,cn->ci", x, y) / size / squares
    assert np.var(optima, axis=0).mean() == pytest.approx(4.0 + 0.25 / size * np.exp(2 * 0.16), rel=0.2)
    residuals = y - np.einsum("cni,ci->cn", x, optima)
    assert (residuals**2).sum() / (clients * (size - dim)) == pytest.approx(0.25, rel=0.1)


def test_least_squares_clients_do_not_depend_on_how_many_there_are() -> None:
    few, many = (load("least_squares", clients=c) for c in (3, 9))
    assert np.array_equal(few.x, many.x[: len(few.x)]) and np.array_equal(few.y, many.y[: len(few.y)])
    assert (few.y.dtype, few.y.shape, len(few.test_y)) == (np.float32, (120, 1), 30)
    assert not np.array_equal(few.y, load("least_squares", clients=3, seed=1).y)
    alike = load("least_squares", clients=2, heterogeneity=0.0, noise=0.0, spread=0.0)
    found = [np.linalg.lstsq(alike.x[part], alike.y[part])[0] for part in (slice(0, 40), slice(40, 80))]
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)  # one model for all


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("least_squares", {"noise": -1}, "noise = -1 must be a finite number >= 0"),
        ("least_squares", {"examples_per_client": 3, "correlated": False}, "must be at least dim = 8"),
        ("digit", {}, "no data set is called 'digit'; did you mean 'digits'?"),
        ("digits", {"test_fractoin": 0.1}, "no option 'test_fractoin'; did you mean 'test_fraction'?"),
        ("digits", {"test_fraction": 1.0}, "test_fraction = 1.0 must be a finite number > 0 and < 1"),
        ("synthetic", {"alpha": 1, "beta": 1}, "data set 'synthetic' needs the option 'clients'"),
        ("synthetic", {"alpha": -1, "beta": 1, "clients": 2}, "alpha = -1 must be a finite number >= 0"),
        ("synthetic", {"alpha": 1, "beta": 1, "clients": 0}, "clients = 0 must be a whole number >= 1"),
        ("synthetic", {"alpha": 1, "beta": 1, "clients": 2, "size_min": 1}, "size_min = 1 must be"),
        ("synthetic", {"alpha": 1, "beta": 1, "clients": 2, "iid": "no"}, "iid = 'no' must be true or false"),
    ],
)
def test_load_refuses_what_it_does_not_know(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(name, **options)
    assert message in str(caught.value)


def test_own_data_sets_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(*, classes: int = 3) -> Dataset:
        return small(classes=classes)

    monkeypatch.setitem(DATASETS, "mine", mine)
    assert load("mine", classes=7).classes == 7
