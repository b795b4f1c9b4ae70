"""The 1797 handwritten digits of 8x8 pixels that come with scikit-learn: a real data set that needs no download."""

from __future__ import annotations

import importlib

import numpy as np

from fedmomentum.data.arguments import real
from fedmomentum.data.dataset import Dataset, held_out
from fedmomentum.errors import UserError


def digits(*, test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """Give the digits as float32 images ``[N, 1, 8, 8]`` in [0, 1] with ten classes.

    Args:
        test_fraction: part held out as the central test set, stratified by class.
        seed: of the split; the default is one fixed split for everybody.

    Raises:
        UserError: the fraction is not in (0, 1), or scikit-learn is absent.
    """
    fraction = real("data set 'digits'", "test_fraction", test_fraction, above=0, below=1)
    try:
        raw = importlib.import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise UserError(f"data set 'digits' is part of scikit-learn, which cannot be imported: {error}") from error
    x = np.asarray(raw.images / 16.0, np.float32)[:, None]
    y = np.asarray(raw.target, np.int64)
    train, test = held_out(y, fraction, seed)
    return Dataset("digits", x[train], y[train], x[test], y[test], classes=10)
