"""A data set: training and central test arrays, and the natural client of each training example where there is one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmomentum.errors import UserError
from fedmomentum.streams import stream

Array = NDArray[Any]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Arrays of one data set; ``N`` training and ``M`` test examples.

    Args:
        name: what it is called in messages and provenance.
        x: ``[N, *shape]``; images are float32 ``[N, channels, H, W]`` in [0, 1], tokens are int64 ``[N, T]``.
        y: ``[N]`` int64 classes, ``[N, T]`` where every token has a target, or numbers, float32 ``[N, classes]``.
        test_x: ``[M, *shape]``, the central test set.
        test_y: as ``y``.
        classes: labels are in ``0 .. classes - 1``; of numbers, how many an example has.
        groups: ``[N]`` int64, the natural client of each training example; None where there is none.

    Raises:
        UserError: the arrays do not fit together; the message names the data set, the array and the shapes.
    """

    name: str
    x: Array
    y: Array
    test_x: Array
    test_y: Array
    classes: int
    groups: Ints | None = None

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit together."""
        for part, x, y in (("", self.x, self.y), ("test_", self.test_x, self.test_y)):
            if len(x) == 0:
                raise UserError(f"data set '{self.name}': {part}x holds no examples; at least one is needed")
            if len(x) != len(y):
                raise UserError(
                    f"data set '{self.name}': {part}x has {len(x)} examples but {part}y has {len(y)} labels"
                )
            if np.issubdtype(y.dtype, np.floating) and y.shape[1:] == (self.classes,):
                continue
            if not np.issubdtype(y.dtype, np.integer):
                raise UserError(
                    f"data set '{self.name}': {part}y has dtype {y.dtype}; labels must be integers, or numbers of "
                    f"shape [{len(y)}, {self.classes}]"
                )
            low, high = int(y.min()), int(y.max())
            if low < 0 or high >= self.classes:
                raise UserError(
                    f"data set '{self.name}': {part}y has labels from {low} to {high}; "
                    f"with {self.classes} classes they must lie in 0 .. {self.classes - 1}"
                )
        for key, train, test in (("x", self.x, self.test_x), ("y", self.y, self.test_y)):
            if train.shape[1:] != test.shape[1:]:
                raise UserError(
                    f"data set '{self.name}': an example of {key} has shape {list(train.shape[1:])} "
                    f"but one of test_{key} has {list(test.shape[1:])}"
                )
        if self.groups is not None and self.groups.shape != (len(self.x),):
            raise UserError(
                f"data set '{self.name}': groups has shape {list(self.groups.shape)}; "
                f"one number a training example is needed: [{len(self.x)}]"
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, without the leading axis."""
        return self.x.shape[1:]

    @cached_property
    def checksum(self) -> str:
        """sha256 (hex) over names, types, shapes and little-endian bytes of every array; the same on every machine."""
        arrays = {"x": self.x, "y": self.y, "test_x": self.test_x, "test_y": self.test_y}
        if self.groups is not None:
            arrays["groups"] = self.groups
        return digest(arrays)


def digest(arrays: dict[str, Array]) -> str:
    """Give the sha256 (hex) of named arrays: each name, dtype, shape, and the bytes in little-endian C order."""
    total = hashlib.sha256()
    for name, array in arrays.items():
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        total.update(f"{name} {plain.dtype.str} {list(array.shape)}\n".encode())
        total.update(plain.data)
    return total.hexdigest()


def held_out(labels: Ints, fraction: float, seed: int) -> tuple[Ints, Ints]:
    """Split examples into a training and a test part that agree in their label distributions.

    Of the n_k examples of class k, floor or ceil of ``fraction n_k`` go to the test part, so that the test part as a
    whole has ``round(fraction N)`` (largest remainders first). Sequences (``labels`` of two axes) are split without
    regard to labels.

    Args:
        labels: ``[N]`` or ``[N, T]``.
        fraction: part of the examples to hold out, in (0, 1).
        seed: of the stream "test split".

    Returns:
        Sorted indices of the training part and of the test part.

    Raises:
        UserError: one of the two parts would be empty.
    """
    size = len(labels)
    wanted = round(fraction * size)
    if not 0 < wanted < size:
        raise UserError(
            f"test_fraction = {fraction} of {size} examples leaves {wanted} to test and {size - wanted} to train"
        )
    order = stream(seed, "test split").permutation(size)
    classes = labels[order] if labels.ndim == 1 else np.zeros(size, np.int64)
    by_class = np.argsort(classes, kind="stable")
    counts = np.bincount(classes)
    exact = fraction * counts
    take = np.floor(exact).astype(np.int64)
    take[np.argsort(take - exact, kind="stable")[: wanted - take.sum()]] += 1
    rank = np.arange(size) - np.repeat(np.cumsum(counts) - counts, counts)
    is_test = rank < np.repeat(take, counts)
    chosen = order[by_class]
    return np.sort(chosen[~is_test]), np.sort(chosen[is_test])
