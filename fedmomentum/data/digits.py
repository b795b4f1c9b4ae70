"""The 1797 handwritten digits of 8x8 pixels that come with scikit-learn: a real data set that needs no download."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmomentum.data.arguments import real
from fedmomentum.data.dataset import Dataset, held_out
from fedmomentum.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def digits(*, test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """Give the digits as float32 images ``[N, 1, 8, 8]`` in [0, 1] with ten classes.

    Args:
        test_fraction: part held out as the central test set, stratified by class.
        seed: of the split; the default is one fixed split for everybody.

    Raises:
        UserError: the fraction is not in (0, 1), or scikit-learn is absent.
    """
    fraction = real("data set 'digits'", "test_fraction", test_fraction, above=0, below=1)
    pixels, y = _table()
    x = np.asarray(pixels.reshape(-1, 1, 8, 8) / 16.0, np.float32)
    train, test = held_out(y, fraction, seed)
    return Dataset("digits", x[train], y[train], x[test], y[test], classes=10)


def _table() -> tuple[Floats, Ints]:
    """Give the pixels ``[N, 64]`` in [0, 16] and the digits ``[N]``.

    Read from scikit-learn's own file where it is in its place: importing the package takes longer than everything else
    that a short run does.
    """
    package = importlib.util.find_spec("sklearn")
    places = package.submodule_search_locations if package is not None else None
    for place in places or ():
        file = Path(place) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            table = np.loadtxt(file, delimiter=",", dtype=np.float64)
            if table.shape == (1797, 65):
                return table[:, :64], table[:, 64].astype(np.int64)
    try:
        raw = importlib.import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise UserError(f"data set 'digits' is part of scikit-learn, which cannot be imported: {error}") from error
    return np.asarray(raw.data, np.float64), np.asarray(raw.target, np.int64)
