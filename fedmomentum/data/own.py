"""The data of one real client, read where they lie: .npz, a folder of images by class, CSV, or IDX files."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedmomentum.data.dataset import Array, Ints
from fedmomentum.data.federated import FederatedData
from fedmomentum.data.idx import read_idx
from fedmomentum.data.npz import read_arrays
from fedmomentum.data.partition import Partition
from fedmomentum.errors import UserError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
LABEL = "label"
"""Column of a CSV file that holds the class."""


@dataclass(frozen=True)
class Wanted:
    """What the examples of a client have to look like.

    Args:
        shape: of one example.
        dtype: of it: ``float32`` for images and vectors, ``int64`` for symbols.
        classes: labels are in ``0 .. classes - 1``.
    """

    shape: tuple[int, ...]
    dtype: str
    classes: int


def read_own(path: str | Path, wanted: Wanted) -> tuple[Array, Ints]:
    """Read the examples and labels of one client.

    - a file ``.npz`` with the arrays ``x`` and ``y``, see :func:`fedmomentum.data.npz.npz`;
    - a file ``.csv`` with a heading, a column ``label``, and numbers in all others, in the order of the features;
    - a folder with two IDX files, ``*idx3-ubyte`` (images) and ``*idx1-ubyte`` (labels), gzipped or plain;
    - a folder with a folder of images for each class, named 0, 1, ... or, all classes present, sorted by name;
    - a folder with one file ``.npz`` or ``.csv`` and nothing of the above.

    Args:
        path: the file or folder.
        wanted: what they have to look like.

    Raises:
        UserError: there is nothing of the kind, or the examples are not as wanted; the message says what is and what
            would be right, and holds no example.
    """
    place = _only(Path(path).expanduser())
    if place.is_dir():
        x, y = _folder(place, wanted)
    elif not place.is_file():
        raise UserError(f"{place}: no such file or folder; .npz, .csv, IDX files or a folder of images is needed")
    elif place.suffix == ".npz":
        arrays = read_arrays(place)
        x, y = arrays["x"], arrays["y"]
    elif place.suffix == ".csv":
        x, y = _csv(place, wanted)
    else:
        raise UserError(f"{place}: cannot tell what it is; a file must be .npz or .csv")
    _check(place, x, y, wanted)
    return x, y


def own_data(x: Array, y: Ints, *, classes: int, client: int, validation: float, seed: int) -> FederatedData:
    """Give the federated view in which one client holds all examples, and the others none.

    Args:
        x: ``[N, *shape]``.
        y: ``[N]`` or ``[N, T]``.
        classes: how many.
        client: the number of the client, which its batches are drawn by.
        validation: part that it holds out.
        seed: of the stream "validation".
    """
    offsets = np.zeros(client + 2, np.int64)
    offsets[-1] = len(x)
    split = Partition(np.arange(len(x)), offsets)
    return FederatedData("own", x, y, x[:0], y[:0], classes, split, validation, None, seed)


def _only(place: Path) -> Path:
    """Give the one table in a folder that holds neither IDX files nor folders, or the place itself."""
    if not place.is_dir() or any(entry.is_dir() or "-ubyte" in entry.name for entry in place.iterdir()):
        return place
    tables = sorted(entry for entry in place.iterdir() if entry.suffix in (".npz", ".csv"))
    if len(tables) > 1:
        raise UserError(f"{place}: {tables[0].name} and {tables[1].name}; name the file that is meant")
    return tables[0] if tables else place


def _check(place: Path, x: Array, y: Ints, wanted: Wanted) -> None:
    if len(x) == 0:
        raise UserError(f"{place}: holds no examples")
    if tuple(x.shape[1:]) != wanted.shape:
        raise UserError(f"{place}: an example has shape {list(x.shape[1:])}; the scenario needs {list(wanted.shape)}")
    if str(x.dtype) != wanted.dtype:
        kinds = {"float32": "numbers or pixels", "int64": "whole numbers that stand for symbols"}
        raise UserError(f"{place}: examples are {x.dtype}; the scenario needs {wanted.dtype}, {kinds[wanted.dtype]}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= wanted.classes:
        raise UserError(f"{place}: labels are in {low} .. {high}; the scenario has classes 0 .. {wanted.classes - 1}")


def _folder(place: Path, wanted: Wanted) -> tuple[Array, Ints]:
    images, labels = (sorted(place.glob(f"*{kind}-ubyte*")) for kind in ("idx3", "idx1"))
    if len(images) == 1 and len(labels) == 1:
        pixels, y = read_idx(images[0], axes=3), read_idx(labels[0], axes=1)
        if len(pixels) != len(y):
            raise UserError(f"{place}: {images[0].name} has {len(pixels)} images, {labels[0].name} {len(y)} labels")
        return np.divide(pixels[:, None], np.float32(255), dtype=np.float32), y.astype(np.int64)
    if images or labels:
        raise UserError(
            f"{place}: {len(images)} IDX files of images and {len(labels)} of labels; one of each is needed"
        )
    classes = sorted(entry for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(
            f"{place}: holds neither one .npz or .csv file, nor IDX files, nor a folder of images for each class"
        )
    return _pictures(place, _numbered(place, classes, wanted), wanted)


def _numbered(place: Path, folders: Sequence[Path], wanted: Wanted) -> list[tuple[int, Path]]:
    """Give each folder its class; names that are no numbers only say which one where all classes are there."""
    if all(folder.name.isdecimal() for folder in folders):
        return [(int(folder.name), folder) for folder in folders]
    if len(folders) != wanted.classes:
        raise UserError(
            f"{place}: {len(folders)} folders of images for {wanted.classes} classes; name them 0 .. "
            f"{wanted.classes - 1}, or make an empty folder for each class that is missing"
        )
    return list(enumerate(folders))


def _pictures(place: Path, folders: Sequence[tuple[int, Path]], wanted: Wanted) -> tuple[Array, Ints]:
    from PIL import Image, UnidentifiedImageError

    if len(wanted.shape) != 3 or wanted.shape[0] not in (1, 3):
        raise UserError(f"{place}: images have shape [1 or 3, height, width]; the scenario needs {list(wanted.shape)}")
    channels, height, width = wanted.shape
    files = [
        (label, file) for label, folder in folders for file in sorted(folder.iterdir()) if file.suffix.lower() in IMAGES
    ]
    x = np.empty((len(files), *wanted.shape), np.float32)
    for row, (_, file) in enumerate(files):
        try:
            with Image.open(file) as opened:
                picture = np.asarray(opened.convert("L" if channels == 1 else "RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise UserError(f"{file}: cannot be read as an image: {error}") from error
        if picture.shape[:2] != (height, width):
            raise UserError(
                f"{file}: {picture.shape[1]} x {picture.shape[0]} pixels; the scenario needs {width} x {height}"
            )
        pixels = picture[None] if channels == 1 else picture.transpose(2, 0, 1)
        np.divide(pixels, np.float32(255), out=x[row], casting="unsafe")
    return x, np.array([label for label, _ in files], np.int64)


def _csv(place: Path, wanted: Wanted) -> tuple[Array, Ints]:
    try:
        with place.open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{place}: cannot be read: {error}") from error
    heading = [name.strip() for name in rows[0]] if rows else []
    if heading.count(LABEL) != 1:
        raise UserError(f"{place}:1: the heading needs one column '{LABEL}'; it has {', '.join(heading[:10])}")
    at, features = heading.index(LABEL), math.prod(wanted.shape)
    if len(heading) - 1 != features:
        raise UserError(
            f"{place}:1: {len(heading) - 1} columns beside '{LABEL}'; examples of shape {list(wanted.shape)} "
            f"have {features} numbers"
        )
    y = np.empty(len(rows) - 1, np.int64)
    x = np.empty((len(rows) - 1, features), wanted.dtype)
    for row, cells in enumerate(rows[1:]):
        if len(cells) != len(heading):
            raise UserError(f"{place}:{row + 2}: {len(cells)} cells; the heading has {len(heading)}")
        try:
            y[row] = int(cells[at])
            x[row] = np.array(cells[:at] + cells[at + 1 :], dtype=np.int64 if wanted.dtype == "int64" else np.float64)
        except ValueError as error:
            raise UserError(f"{place}:{row + 2}: a cell is no number, or a label no whole one") from error
        if not np.isfinite(x[row]).all():
            raise UserError(f"{place}:{row + 2}: holds a number that is not finite")
    return x.reshape(-1, *wanted.shape), y
