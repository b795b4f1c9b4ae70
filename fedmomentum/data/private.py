"""Data that only the clients have: what an example looks like, and at most a test set for the server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedmomentum.data.arguments import whole
from fedmomentum.data.dataset import Dataset
from fedmomentum.data.own import Wanted, read_own


def private(*, shape: Sequence[int], classes: int, symbols: bool = False, test: str | Path | None = None) -> Dataset:
    """Give a data set that stands for data which lie with the clients: one blank example, and the server's test set.

    Args:
        shape: of one example, without the leading axis.
        classes: labels are in ``0 .. classes - 1``.
        symbols: whether an example is made of whole numbers that stand for symbols, not of numbers.
        test: the server's test set, a file or folder as :func:`fedmomentum.data.own.read_own` takes it; None for none,
            and then the blank example is in its place.

    Raises:
        UserError: a number is out of range, or the test set does not look as the other arguments say.
    """
    sides = tuple(whole("data set 'private'", "shape", side, least=1) for side in shape)
    wanted = Wanted(sides, "int64" if symbols else "float32", whole("data set 'private'", "classes", classes, least=2))
    blank, nought = np.zeros((1, *sides), wanted.dtype), np.zeros(1, np.int64)
    test_x, test_y = (blank, nought) if test is None else read_own(test, wanted)
    return Dataset("private", blank, nought, test_x, test_y, wanted.classes, groups=nought)
