"""FedProx's synthetic logistic regression: how much models differ and how much inputs differ are two dials."""

from __future__ import annotations

import numpy as np

from fedmomentum.data.arguments import real, whole
from fedmomentum.data.dataset import Array, Dataset, Ints
from fedmomentum.errors import UserError
from fedmomentum.streams import stream

_HERE = "data set 'synthetic'"


def synthetic(
    *,
    alpha: float,
    beta: float,
    clients: int,
    dim: int = 60,
    classes: int = 10,
    iid: bool = False,
    size_mean: float = 4.0,
    size_sigma: float = 2.0,
    size_min: int = 50,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Give Synthetic(alpha, beta): each client k labels inputs of its own with a linear model of its own.

        y = argmax(W_k x + b_k),   W_k, b_k ~ N(u_k, 1),   u_k ~ N(0, alpha)
        x ~ N(v_k, Sigma),   Sigma_jj = j^-1.2,   v_kj ~ N(B_k, 1),   B_k ~ N(0, beta)
        n_k = size_min + floor(LogNormal(size_mean, size_sigma))

    u_k is one number, as in the paper, so it moves all classes of a client by the same ``u_k (sum x + 1)`` and decides
    no label: models differ because W_k and b_k are drawn for each client, whatever alpha is; with ``iid`` they do not.
    alpha and beta are variances, as the paper writes them (its authors' program uses them as standard deviations; the
    two agree at 0 and 1). Client k's data depend on ``(seed, k)`` and the options alone, not on ``clients``. The
    held-out part of every client goes into the one central test set; ``groups`` holds k.

    Args:
        alpha: variance of the models' means between clients, >= 0.
        beta: variance of the inputs' means between clients, >= 0.
        clients: how many.
        dim: length of x.
        classes: rows of W_k.
        iid: one W, b ~ N(0, 1) for all, and x ~ N(0, Sigma); alpha and beta are then not used.
        size_mean: of log sizes.
        size_sigma: standard deviation of log sizes, >= 0.
        size_min: examples that every client has at least, >= 2.
        test_fraction: part of each client held out (at least one example, and at least one stays), in (0, 1).
        seed: of the streams "synthetic" and "synthetic model".

    Returns:
        A data set with x ``[N, dim]`` float32, clients one after another.

    Raises:
        UserError: an option is out of its range.

    Source: arXiv:1812.06127, section 5.1.
    """
    spread_models = np.sqrt(real(_HERE, "alpha", alpha, least=0))
    spread_inputs = np.sqrt(real(_HERE, "beta", beta, least=0))
    mean, sigma = real(_HERE, "size_mean", size_mean), real(_HERE, "size_sigma", size_sigma, least=0)
    fraction = real(_HERE, "test_fraction", test_fraction, above=0, below=1)
    least = whole(_HERE, "size_min", size_min, least=2)
    dim, classes = whole(_HERE, "dim", dim, least=1), whole(_HERE, "classes", classes, least=2)
    if not isinstance(iid, bool):
        raise UserError(f"{_HERE}: iid = {iid!r} must be true or false")
    deviations = np.arange(1, dim + 1) ** -0.6

    shared = stream(seed, "synthetic model")
    shared_weight, shared_bias = shared.standard_normal((classes, dim)), shared.standard_normal(classes)

    xs: list[Array] = []
    ys: list[Ints] = []
    for client in range(whole(_HERE, "clients", clients, least=1)):
        rng = stream(seed, "synthetic", client=client)
        size = least + int(rng.lognormal(mean, sigma))
        if iid:
            weight, bias, centre = shared_weight, shared_bias, np.zeros(dim)
        else:
            u = spread_models * rng.standard_normal()
            weight, bias = u + rng.standard_normal((classes, dim)), u + rng.standard_normal(classes)
            centre = spread_inputs * rng.standard_normal() + rng.standard_normal(dim)
        x = centre + deviations * rng.standard_normal((size, dim))
        xs.append(x.astype(np.float32))
        ys.append(np.argmax(x @ weight.T + bias, axis=1))

    sizes = np.array([len(y) for y in ys])
    tests = np.clip(np.rint(fraction * sizes).astype(np.int64), 1, sizes - 1)
    x, y, groups = np.concatenate(xs), np.concatenate(ys).astype(np.int64), np.repeat(np.arange(len(sizes)), sizes)
    # A client's examples are drawn independently, so its last ones are as good a test set as any others.
    is_test = np.arange(len(y)) >= np.repeat(np.cumsum(sizes) - tests, sizes)
    return Dataset(
        "synthetic", x[~is_test], y[~is_test], x[is_test], y[is_test], classes=classes, groups=groups[~is_test]
    )
