"""Clients that each measure a linear model of their own: quadratic losses, of which everything is a closed form."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedmomentum.data.arguments import real, whole
from fedmomentum.data.dataset import Array, Dataset
from fedmomentum.errors import UserError
from fedmomentum.streams import stream

_HERE = "data set 'least_squares'"


def least_squares(
    *,
    dim: int = 8,
    clients: int = 10,
    examples_per_client: int = 40,
    heterogeneity: float = 1.0,
    spread: float = 0.5,
    noise: float = 1.0,
    correlated: bool = True,
    test_per_client: int = 10,
    seed: int = 0,
) -> Dataset:
    """Give client k inputs on scales of its own, and answers of a linear model of its own.

        y = w_k' x + noise * e,   w_k = w + heterogeneity * d_k,   e, w_j, d_kj ~ N(0, 1)
        x = s_k * z,   log s_kj ~ N(0, spread^2),   z_j ~ N(0, 1)

    With half the squared error as loss, client k's mean loss is a quadratic of curvature ``X_k' X_k / n_k``, about
    ``diag(s_k^2)``: clients differ in where their optima are (heterogeneity) and in how sure of them they are (spread).
    Client k's data depend on ``(seed, k)`` and the options alone, not on ``clients``.

    Args:
        dim: length of x, and number of weights.
        clients: how many.
        examples_per_client: to train on; at least ``dim`` where inputs are not correlated.
        heterogeneity: standard deviation between clients of each weight, >= 0.
        spread: standard deviation of the logarithm of the scale of each input on each client, >= 0.
        noise: standard deviation of the answers, >= 0; the posterior at temperature ``1 / n`` takes it for 1.
        correlated: inputs as they fall; or with ``X_k' X_k / n_k = diag(s_k^2)`` to rounding.
        test_per_client: examples of each client in the one central test set.
        seed: of the streams "least squares" and "least squares model".

    Returns:
        A data set with x ``[N, dim]`` and y ``[N, 1]`` float32, clients one after another.

    Raises:
        UserError: an option is out of its range.
    """
    between = real(_HERE, "heterogeneity", heterogeneity, least=0)
    scales, scatter = real(_HERE, "spread", spread, least=0), real(_HERE, "noise", noise, least=0)
    dim, count = whole(_HERE, "dim", dim, least=1), whole(_HERE, "clients", clients, least=1)
    size = whole(_HERE, "examples_per_client", examples_per_client, least=1)
    tests = whole(_HERE, "test_per_client", test_per_client, least=1)
    if not isinstance(correlated, bool):
        raise UserError(f"{_HERE}: correlated = {correlated!r} must be true or false")
    if not correlated and size < dim:
        raise UserError(f"{_HERE}: examples_per_client = {size} must be at least dim = {dim} for uncorrelated inputs")
    centre = stream(seed, "least squares model").standard_normal(dim)
    parts: list[tuple[Array, Array, Array, Array]] = []
    for client in range(count):
        rng = stream(seed, "least squares", client=client)
        weight = centre + between * rng.standard_normal(dim)
        scale = np.exp(scales * rng.standard_normal(dim))
        z, unseen = rng.standard_normal((size, dim)), rng.standard_normal((tests, dim))
        if not correlated:
            z = np.linalg.qr(z)[0] * np.sqrt(size)
        x, test_x = scale * z, scale * unseen
        y, test_y = (part @ weight + scatter * rng.standard_normal(len(part)) for part in (x, test_x))
        parts.append((x, y[:, None], test_x, test_y[:, None]))
    columns: Any = zip(*parts, strict=True)
    arrays: list[Array] = [np.concatenate(column).astype(np.float32) for column in columns]
    groups = np.repeat(np.arange(count, dtype=np.int64), size)
    return Dataset("least_squares", arrays[0], arrays[1], arrays[2], arrays[3], classes=1, groups=groups)
