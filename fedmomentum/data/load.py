"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedmomentum.data.arguments import check_options, choose
from fedmomentum.data.dataset import Dataset
from fedmomentum.data.digits import digits
from fedmomentum.data.fashion_mnist import fashion_mnist
from fedmomentum.data.least_squares import least_squares
from fedmomentum.data.npz import npz
from fedmomentum.data.private import private
from fedmomentum.data.synthetic import synthetic
from fedmomentum.data.text import text

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "least_squares": least_squares,
    "npz": npz,
    "private": private,
    "synthetic": synthetic,
    "text": text,
}
"""Name -> function of keyword-only options. Add your own: ``DATASETS["mine"] = load_mine``."""


def load(name: str, **options: Any) -> Dataset:
    """Give a data set by its name in ``DATASETS``.

    Example:
        >>> load("digits").x.shape
        (1438, 1, 8, 8)

    Raises:
        UserError: no such name, an option that it does not take, or whatever the data set itself refuses.
    """
    function = choose("data set", DATASETS, name)
    check_options("data set", name, function, options)
    return function(**options)
