"""A user's own arrays: one .npz file, or a folder of them in which each file is one natural client."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from fedmomentum.data.arguments import real, whole
from fedmomentum.data.dataset import Array, Dataset, held_out
from fedmomentum.errors import UserError
from fedmomentum.streams import key

KEYS = ("x", "y", "test_x", "test_y", "groups")


def npz(*, path: str | Path, classes: int | None = None, test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """Give the arrays ``x``, ``y`` and, where they are there, ``test_x`` and ``test_y``, ``groups``.

    Types: float arrays become float32 as they are; uint8 arrays are pixels, divided by 255, and ``[N, H, W]`` of them
    becomes ``[N, 1, H, W]``; other integers are tokens and become int64. Labels are whole numbers from 0. Arrays of
    Python objects are refused: reading them would run code from the file.

    In a folder, the files ``*.npz`` in the order of their names are the clients 0, 1, ...; their test parts are pooled.

    Args:
        path: a file or a folder.
        classes: how many; None for the largest label plus one.
        test_fraction: part to hold out where a file has no test arrays, in (0, 1); of each file on its own.
        seed: of that split.

    Raises:
        UserError: names the file, the key, the shape found and what would be right.
    """
    place = Path(path).expanduser()
    fraction = real("data set 'npz'", "test_fraction", test_fraction, above=0, below=1)
    if place.is_dir():
        files = sorted(place.glob("*.npz"), key=lambda file: file.name)
        if not files:
            raise UserError(f"{place}: the folder holds no .npz files; one a client is needed")
        parts = []
        for client, file in enumerate(files):
            part = _with_test(file, read_arrays(file), fraction, key(seed, "npz file", file=client))
            if "groups" in part:
                raise UserError(
                    f"{file}: groups: not in a folder of files, where each file is one client; leave it out"
                )
            parts.append(part | {"groups": np.full(len(part["x"]), client, np.int64)})
        arrays = _pool(files, parts)
    elif place.is_file():
        arrays = _with_test(place, read_arrays(place), fraction, seed)
    else:
        raise UserError(f"{place}: no such file or folder; a .npz file with x and y, or a folder of them, is needed")
    if classes is None:
        classes = 1 + max(int(arrays["y"].max()), int(arrays["test_y"].max()))
    else:
        classes = whole("data set 'npz'", "classes", classes, least=1)
    return Dataset(f"npz:{place.name}", classes=classes, **arrays)


def read_arrays(file: Path) -> dict[str, Array]:
    """Read the arrays of one file, in the types that :func:`npz` says.

    Raises:
        UserError: names the file, the key, the shape found and what would be right.
    """
    arrays: dict[str, Array] = {}
    try:
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise UserError(f"{file}: one bare array (.npy); a .npz file with the keys x and y is needed")
        with archive as stored:
            for name in stored.files:
                if name not in KEYS:
                    raise UserError(f"{file}: {name}: unknown key; the keys are {', '.join(KEYS)}")
                try:
                    arrays[name] = stored[name]
                except ValueError as error:
                    raise UserError(f"{file}: {name}: {error}; store plain numbers") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file}: cannot be read as a .npz file: {error}") from error
    for name in ("x", "y"):
        if name not in arrays:
            raise UserError(
                f"{file}: {name}: missing; the file has {', '.join(arrays) or 'no keys'}, x and y are needed"
            )
    if ("test_x" in arrays) != ("test_y" in arrays):
        there, absent = ("test_x", "test_y") if "test_x" in arrays else ("test_y", "test_x")
        raise UserError(f"{file}: {absent}: missing, although there is {there}; give both or neither")
    for x_name, y_name in (("x", "y"), ("test_x", "test_y")):
        if x_name in arrays:
            arrays[x_name] = _inputs(file, x_name, arrays[x_name])
            arrays[y_name] = _labels(file, y_name, arrays[y_name], arrays[x_name], x_name)
    if "groups" in arrays:
        groups = arrays["groups"]
        if not np.issubdtype(groups.dtype, np.integer) or groups.shape != arrays["x"].shape[:1]:
            raise UserError(
                f"{file}: groups: {groups.dtype} of shape {list(groups.shape)}; one integer for each example of x "
                f"is needed: [{len(arrays['x'])}]"
            )
        arrays["groups"] = groups.astype(np.int64)
    return arrays


def _inputs(file: Path, name: str, x: Array) -> Array:
    if x.ndim < 2:
        raise UserError(
            f"{file}: {name}: shape {list(x.shape)}; an axis of examples and one of features are needed: [N, ...]"
        )
    if len(x) == 0:
        raise UserError(f"{file}: {name}: shape {list(x.shape)} holds no examples; at least one is needed")
    if x.dtype == np.uint8:
        pixels = x[:, None] if x.ndim == 3 else x
        return np.divide(pixels, np.float32(255), dtype=np.float32)
    if np.issubdtype(x.dtype, np.integer):
        return x.astype(np.int64, copy=False)
    if not np.issubdtype(x.dtype, np.floating):
        raise UserError(f"{file}: {name}: dtype {x.dtype}; floats, uint8 pixels or integer tokens are needed")
    bad = ~np.isfinite(x)
    if bad.any():
        where = [int(i) for i in np.argwhere(bad)[0]]
        raise UserError(f"{file}: {name}: {int(bad.sum())} values are not finite, the first at {where}")
    return x.astype(np.float32, copy=False)


def _labels(file: Path, name: str, y: Array, x: Array, x_name: str) -> Array:
    if not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"{file}: {name}: dtype {y.dtype}; labels must be integers from 0")
    if y.shape not in (x.shape[:1], x.shape[:2]):
        raise UserError(
            f"{file}: {name}: shape {list(y.shape)} does not go with {x_name} of shape {list(x.shape)}; "
            f"[{len(x)}] labels are needed, or {list(x.shape[:2])} for sequences"
        )
    if int(y.min()) < 0:
        raise UserError(f"{file}: {name}: the smallest label is {int(y.min())}; labels must be integers from 0")
    return y.astype(np.int64, copy=False)


def _with_test(file: Path, arrays: dict[str, Array], fraction: float, seed: int) -> dict[str, Array]:
    if "test_x" in arrays:
        return arrays
    try:
        train, test = held_out(arrays["y"].astype(np.int64), fraction, seed)
    except UserError as error:
        raise UserError(f"{file}: there is no test_x, and {error}") from error
    split = {name: array[train] for name, array in arrays.items()}
    return split | {"test_x": arrays["x"][test], "test_y": arrays["y"][test]}


def _pool(files: list[Path], parts: list[dict[str, Array]]) -> dict[str, Array]:
    first = parts[0]
    for file, part in zip(files, parts, strict=True):
        for name in ("x", "y", "test_x", "test_y"):
            if part[name].shape[1:] != first[name].shape[1:] or part[name].dtype != first[name].dtype:
                raise UserError(
                    f"{file}: {name}: {part[name].dtype} examples of shape {list(part[name].shape[1:])}; "
                    f"{files[0].name} has {first[name].dtype} {list(first[name].shape[1:])}, and all files must agree"
                )
    return {name: np.concatenate([part[name] for part in parts]) for name in first}
