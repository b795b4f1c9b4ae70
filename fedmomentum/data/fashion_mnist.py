"""Fashion-MNIST (arXiv:1708.07747): 60,000 + 10,000 grey images of clothes, 28x28, ten classes.

It is looked for in this order: the folder the user names, the folder in FEDMOMENTUM_DATA, Debian's package, our cache,
and at last the Hugging Face hub if the `datasets` library is installed.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np

from fedmomentum.data.arguments import whole
from fedmomentum.data.dataset import Array, Dataset, digest
from fedmomentum.data.idx import read_idx
from fedmomentum.errors import UserError

VARIABLE = "FEDMOMENTUM_DATA"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
HUB_NAME = "zalando-datasets/fashion_mnist"
FILES = {
    "x": "train-images-idx3-ubyte",
    "y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}


def fashion_mnist(
    *, root: str | Path | None = None, train_size: int | None = None, test_size: int | None = None
) -> Dataset:
    """Give Fashion-MNIST as float32 images ``[N, 1, 28, 28]`` in [0, 1].

    Args:
        root: folder with the four IDX files, gzipped or plain; None to look in the usual places.
        train_size: use only the first so many training examples.
        test_size: use only the first so many test examples.

    Raises:
        UserError: the files are nowhere (the message says where they were looked for and what can be done), are
            damaged, or hold fewer examples than asked for.
    """
    raw = read_folder(Path(root).expanduser()) if root is not None else _find()
    arrays = {}
    for prefix, option, size in (("", "train_size", train_size), ("test_", "test_size", test_size)):
        x, y = raw[f"{prefix}x"], raw[f"{prefix}y"]
        keep = len(x) if size is None else whole("data set 'fashion_mnist'", option, size, least=1, most=len(x))
        arrays[f"{prefix}x"] = np.divide(x[:keep, None], np.float32(255), dtype=np.float32)
        arrays[f"{prefix}y"] = y[:keep].astype(np.int64)
    return Dataset("fashion_mnist", **arrays, classes=10)


def read_folder(root: Path) -> dict[str, Array]:
    """Read the four IDX files of a folder as bytes: ``x`` [N, H, W], ``y`` [N], ``test_x``, ``test_y``.

    Raises:
        UserError: a file is missing or damaged, or images and labels differ in number.
    """
    arrays = {}
    for key, name in FILES.items():
        path = next((p for p in (root / name, root / f"{name}.gz") if p.is_file()), None)
        if path is None:
            raise UserError(f"{root}: there is neither {name} nor {name}.gz; the folder must hold all four IDX files")
        arrays[key] = read_idx(path, axes=3 if key.endswith("x") else 1)
    for prefix in ("", "test_"):
        images, labels = len(arrays[f"{prefix}x"]), len(arrays[f"{prefix}y"])
        if images != labels:
            raise UserError(
                f"{root}: {FILES[f'{prefix}x']} holds {images} images, {FILES[f'{prefix}y']} {labels} labels"
            )
    return arrays


def cache_folder() -> Path:
    """Give the folder for downloads: ``$XDG_CACHE_HOME/fedmomentum``, by default ``~/.cache/fedmomentum``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedmomentum"


def _find() -> dict[str, Array]:
    looked: list[str] = []
    named = os.environ.get(VARIABLE)
    if named:
        base = Path(named).expanduser()
        places = [base, base / "fashion-mnist", base / "fashion_mnist"]
    else:
        looked.append(f"{VARIABLE} is not set")
        places = []
    for folder in [*places, DEBIAN]:
        if any((folder / f"{FILES['x']}{end}").is_file() for end in ("", ".gz")):
            return read_folder(folder)
        looked.append(f"{folder}: no {FILES['x']}[.gz]")
    cached = cache_folder() / "fashion_mnist.npz"
    if cached.is_file():
        return _read_cache(cached)
    looked.append(f"{cached}: no such file")
    try:
        arrays = _download()
    except Exception as error:  # the hub's client raises errors of many libraries
        looked.append(f"the Hugging Face hub: {type(error).__name__}: {error}")
        raise UserError(_not_found(looked)) from error
    _write_cache(cached, arrays)
    return arrays


def _not_found(looked: list[str]) -> str:
    return "\n".join(
        [
            "data set 'fashion_mnist' was not found. Looked for:",
            *(f"  - {line}" for line in looked),
            "Any one of these helps:",
            f"  1. put the four IDX files ({', '.join(FILES.values())}; .gz or plain) in a folder and give it as "
            f"root= or in {VARIABLE}",
            "  2. on Debian or Ubuntu: apt install dataset-fashion-mnist",
            "  3. with network access: pip install 'fedmomentum[flwr-datasets]', and it is downloaded once",
        ]
    )


def _download() -> dict[str, Array]:
    splits = importlib.import_module("datasets").load_dataset(HUB_NAME)
    arrays: dict[str, Array] = {}
    for prefix, split in (("", "train"), ("test_", "test")):
        rows = splits[split].with_format("numpy")[:]
        arrays[f"{prefix}x"] = np.ascontiguousarray(rows["image"], np.uint8)
        arrays[f"{prefix}y"] = np.ascontiguousarray(rows["label"], np.uint8)
    return arrays


def _write_cache(path: Path, arrays: dict[str, Array]) -> None:
    # Written under another name and renamed, so that a broken download or a second process never leaves half a file.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            part = Path(folder) / path.name
            np.savez(part, checksum=np.array(digest(arrays)), **arrays)  # type: ignore[arg-type]
            part.replace(path)
    except OSError as error:
        warnings.warn(f"the download could not be kept in {path} ({error}); it will be repeated", stacklevel=4)


def _read_cache(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in FILES}
            if str(stored["checksum"]) != digest(arrays):
                raise ValueError("the arrays do not match the checksum stored beside them")
    except Exception as error:
        raise UserError(
            f"{path}: the cached download is damaged ({error}); delete the file to download it anew"
        ) from error
    return arrays
