"""Data sets from files: IDX, Fashion-MNIST's folder and cache, .npz files, texts; and every fault in them."""

from __future__ import annotations

import gzip
import struct
import sys
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmomentum.data import fashion_mnist as fashion
from fedmomentum.data import load
from fedmomentum.data.idx import TYPES, read_idx
from fedmomentum.errors import UserError


def idx_bytes(array: Any) -> bytes:
    """Write the format as its description has it: 0 0 type axes, sizes big-endian, values big-endian."""
    code = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}[array.dtype.str[1:]]
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + bytes(array.astype(array.dtype.newbyteorder(">")).tobytes())


@given(
    dtype=st.sampled_from(sorted(TYPES.values())),
    shape=st.lists(st.integers(0, 4), min_size=0, max_size=4),
    packed=st.booleans(),
)
def test_idx_files_come_back(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, shape: list[int], packed: bool
) -> None:
    array = (np.arange(prod(shape)) * 37 - 5).astype(np.dtype(dtype).newbyteorder("=")).reshape(shape)
    path = tmp_path_factory.mktemp("idx") / "array"
    path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))
    read = read_idx(path)
    assert np.array_equal(read, array)
    assert (read.shape, read.dtype) == (array.shape, array.dtype)


GOOD = idx_bytes(np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\1" + GOOD[1:], "not an IDX file: it begins with '01 00 08 02'"),
        (b"\0\0\7" + GOOD[3:], "not an IDX file"),
        (b"\0\0", "not an IDX file"),
        (GOOD[:9], "truncated: 9 bytes, but 2 axes need a header of 12"),
        (GOOD[:-1], "truncated: 17 bytes, but shape [2, 3] of uint8 needs 18"),
        (GOOD + b"!", "has bytes left over: 19 bytes"),
        (gzip.compress(GOOD, mtime=0)[:-3], "cannot be read"),
        (b"\x1f\x8b" + GOOD, "cannot be read"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "digits-idx2-ubyte"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_idx(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_idx_axes_are_checked(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(GOOD)
    assert read_idx(tmp_path / "a", axes=2).shape == (2, 3)
    with pytest.raises(UserError, match="the array has 2 axes; 3 are needed"):
        read_idx(tmp_path / "a", axes=3)
    with pytest.raises(UserError, match="cannot be read"):
        read_idx(tmp_path / "absent")


RAW = {
    "x": np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3) * 4,
    "y": np.array([0, 9, 3, 3, 1], np.uint8),
    "test_x": np.full((2, 4, 3), 255, np.uint8),
    "test_y": np.array([7, 8], np.uint8),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder of four small IDX files, two of them gzipped."""
    root = tmp_path / "files"
    root.mkdir()
    for key, name in fashion.FILES.items():
        content = idx_bytes(RAW[key])
        if key.startswith("test"):
            (root / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (root / name).write_bytes(content)
    return root


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide every place in which Fashion-MNIST is looked for; give the cache folder."""
    monkeypatch.delenv(fashion.VARIABLE, raising=False)
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path / "debian")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    return tmp_path / "cache" / "fedmomentum"


def test_fashion_mnist_from_a_folder(folder: Path, nowhere: Path) -> None:
    data = load("fashion_mnist", root=folder)
    assert data.x.dtype == np.float32
    assert np.array_equal(np.rint(data.x[:, 0] * 255), RAW["x"])
    assert (data.test_x == 1.0).all()
    assert data.y.tolist() == RAW["y"].tolist() and data.y.dtype == np.int64
    part = load("fashion_mnist", root=str(folder), train_size=3, test_size=1)
    assert np.array_equal(part.x, data.x[:3]) and np.array_equal(part.test_y, data.test_y[:1])
    with pytest.raises(UserError, match="train_size = 6 must be a whole number >= 1 and <= 5"):
        load("fashion_mnist", root=folder, train_size=6)


@pytest.mark.parametrize("inside", [".", "fashion-mnist", "fashion_mnist"])
def test_fashion_mnist_from_the_environment(
    folder: Path, nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    base = folder if inside == "." else tmp_path / "base"
    if inside != ".":
        base.mkdir()
        folder.rename(base / inside)
    monkeypatch.setenv(fashion.VARIABLE, str(base))
    assert load("fashion_mnist").y.tolist() == RAW["y"].tolist()


def test_fashion_mnist_nowhere_says_where_and_what_to_do(nowhere: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load("fashion_mnist")
    message = str(caught.value)
    for part in (fashion.VARIABLE, str(tmp_path / "debian"), str(nowhere), "apt install dataset-fashion-mnist", "pip"):
        assert part in message


@pytest.mark.parametrize("damage", ["missing", "labels", "axes"])
def test_fashion_mnist_folder_with_a_fault(folder: Path, damage: str) -> None:
    labels = folder / fashion.FILES["y"]
    if damage == "missing":
        labels.unlink()
        message = f"there is neither {labels.name} nor {labels.name}.gz"
    elif damage == "labels":
        labels.write_bytes(idx_bytes(RAW["y"][:4]))
        message = "train-images-idx3-ubyte holds 5 images, train-labels-idx1-ubyte 4 labels"
    else:
        labels.write_bytes(idx_bytes(RAW["x"]))
        message = "the array has 3 axes; 1 are needed"
    with pytest.raises(UserError, match=message):
        load("fashion_mnist", root=folder)


class Split:
    """As much of a Hugging Face data set as the download uses."""

    def __init__(self, x: Any, y: Any) -> None:
        self.columns = {"image": x, "label": y.astype(np.int64)}

    def with_format(self, kind: str) -> Split:
        assert kind == "numpy"
        return self

    def __getitem__(self, rows: slice) -> dict[str, Any]:
        return {name: values[rows] for name, values in self.columns.items()}


def test_fashion_mnist_is_downloaded_once_and_checked(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def hub(name: str) -> dict[str, Split]:
        asked.append(name)
        return {"train": Split(RAW["x"], RAW["y"]), "test": Split(RAW["test_x"], RAW["test_y"])}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=hub))
    first, second = load("fashion_mnist"), load("fashion_mnist")
    assert asked == [fashion.HUB_NAME]
    assert first.checksum == second.checksum
    assert [p.name for p in nowhere.iterdir()] == ["fashion_mnist.npz"]

    with np.load(nowhere / "fashion_mnist.npz") as stored:
        arrays = dict(stored)
    arrays["x"][0, 0, 0] ^= 1
    np.savez(nowhere / "fashion_mnist.npz", **arrays)
    with pytest.raises(UserError, match="do not match the checksum"):
        load("fashion_mnist")


def test_a_download_that_cannot_be_kept_is_still_used(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere.parent.write_text("a file where the cache folder should be")
    splits = {"train": Split(RAW["x"], RAW["y"]), "test": Split(RAW["test_x"], RAW["test_y"])}
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda name: splits))
    with pytest.warns(UserWarning, match="could not be kept"):
        assert len(load("fashion_mnist").x) == 5


@pytest.mark.skipif(not fashion.DEBIAN.is_dir(), reason="needs the package dataset-fashion-mnist")
def test_the_real_fashion_mnist() -> None:
    data = load("fashion_mnist", root=fashion.DEBIAN)
    assert data.x.shape == (60_000, 1, 28, 28) and data.test_x.shape == (10_000, 1, 28, 28)
    assert np.bincount(data.y).tolist() == [6000] * 10 and np.bincount(data.test_y).tolist() == [1000] * 10
    assert data.x.min() == 0 and data.x.max() == 1
    # The training mean and deviation that the literature normalises with.
    assert data.x.mean(dtype=np.float64) == pytest.approx(0.2860, abs=1e-4)
    assert data.x.std(dtype=np.float64) == pytest.approx(0.3530, abs=1e-4)


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


X, Y = np.arange(24, dtype=np.float64).reshape(12, 2), np.arange(12) % 3


def test_npz_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x=X, y=Y.astype(np.int8), test_x=X[:2], test_y=Y[:2], groups=Y + 5)
    data = load("npz", path=path)
    assert np.array_equal(data.x, X) and data.x.dtype == np.float32
    assert np.array_equal(data.y, Y) and data.y.dtype == np.int64
    assert np.array_equal(data.test_x, X[:2])
    assert data.groups is not None and np.array_equal(data.groups, Y + 5)
    assert data.classes == 3
    assert load("npz", path=str(path), classes=8).classes == 8


def test_npz_without_test_arrays_is_split_with_its_groups(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x=X, y=Y, groups=np.arange(12))
    data = load("npz", path=path, test_fraction=0.25)
    assert np.bincount(data.test_y).tolist() == [1, 1, 1]
    assert data.groups is not None and np.array_equal(data.x[:, 0], 2 * data.groups)
    assert sorted([*data.x[:, 0], *data.test_x[:, 0]]) == X[:, 0].tolist()
    assert data.checksum == load("npz", path=path, test_fraction=0.25).checksum
    assert data.checksum != load("npz", path=path, test_fraction=0.25, seed=3).checksum


@pytest.mark.parametrize(
    ("x", "shape", "dtype", "largest"),
    [
        (np.full((12, 4, 4), 255, np.uint8), (1, 4, 4), np.float32, 1),
        (np.full((12, 3, 4, 4), 51, np.uint8), (3, 4, 4), np.float32, 0.2),
        (np.full((12, 6), 300, np.int16), (6,), np.int64, 300),
        (np.full((12, 6), 2.5, np.float16), (6,), np.float32, 2.5),
    ],
)
def test_npz_types(tmp_path: Path, x: Any, shape: tuple[int, ...], dtype: type, largest: float) -> None:
    data = load("npz", path=save(tmp_path / "a.npz", x=x, y=Y))
    assert (data.input_shape, data.x.dtype) == (shape, dtype)
    assert data.x.max() == pytest.approx(largest)


def test_npz_folder_is_one_client_a_file(tmp_path: Path) -> None:
    for name, scale in (("b", 1), ("a", 0), ("c", 2)):
        save(
            tmp_path / f"{name}.npz", x=np.full((10 * (scale + 1), 3), float(scale)), y=np.zeros(10 * (scale + 1), int)
        )
    data = load("npz", path=tmp_path)
    assert data.groups is not None and np.array_equal(data.x[:, 0], data.groups)
    assert np.bincount(data.groups).tolist() == [8, 16, 24]
    assert np.bincount(data.test_x[:, 0].astype(int)).tolist() == [2, 4, 6]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "y: missing; the file has x, x and y are needed"),
        ({"x": X, "y": Y, "z": Y}, "z: unknown key; the keys are x, y, test_x, test_y, groups"),
        ({"x": X, "y": Y, "test_x": X}, "test_y: missing, although there is test_x"),
        ({"x": X[:, 0], "y": Y}, "x: shape [12]; an axis of examples and one of features are needed"),
        ({"x": X[:0], "y": Y[:0]}, "x: shape [0, 2] holds no examples"),
        ({"x": X.astype(str), "y": Y}, "x: dtype <U"),
        ({"x": np.where(X == 5, np.nan, X), "y": Y}, "x: 1 values are not finite, the first at [2, 1]"),
        ({"x": X, "y": Y[:11]}, "y: shape [11] does not go with x of shape [12, 2]; [12] labels are needed"),
        ({"x": X, "y": Y.astype(float)}, "y: dtype float64; labels must be integers"),
        ({"x": X, "y": Y - 1}, "y: the smallest label is -1"),
        ({"x": X, "y": Y, "groups": Y[:3]}, "groups: int64 of shape [3]; one integer for each example of x"),
        ({"x": X, "y": np.array([{}] * 12)}, "y: Object arrays cannot be loaded"),
        ({"x": X[:2], "y": Y[:2]}, "there is no test_x, and test_fraction = 0.2 of 2 examples leaves 0 to test"),
    ],
)
def test_npz_faults_name_file_and_key(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = save(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError) as caught:
        load("npz", path=path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_npz_faults_of_places(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        load("npz", path=tmp_path / "absent.npz")
    with pytest.raises(UserError, match=r"holds no \.npz files"):
        load("npz", path=tmp_path)
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(UserError, match=r"cannot be read as a \.npz file"):
        load("npz", path=tmp_path / "text.npz")
    np.save(tmp_path / "bare.npy", X)
    with pytest.raises(UserError, match="one bare array"):
        load("npz", path=tmp_path / "bare.npy")
    whole = save(tmp_path / "whole.npz", x=X, y=Y).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cannot be read as a \.npz file"):
        load("npz", path=tmp_path / "cut.npz")


def test_npz_folder_faults_name_the_file(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", x=X, y=Y)
    save(tmp_path / "b.npz", x=X[:, :1], y=Y)
    with pytest.raises(UserError, match=r"b\.npz: x: float32 examples of shape \[1\]; a\.npz has float32 \[2\]"):
        load("npz", path=tmp_path)
    save(tmp_path / "b.npz", x=X, y=Y, groups=Y)
    with pytest.raises(UserError, match=r"b\.npz: groups: not in a folder of files"):
        load("npz", path=tmp_path)


def test_text_predicts_the_next_character(tmp_path: Path) -> None:
    content = "".join(chr(97 + i % 7) + chr(0x1F600 + i % 3) for i in range(200))
    path = tmp_path / "a.txt"
    path.write_text(content, encoding="utf-8")
    data = load("text", path=path, sequence_length=8, groups=5)
    alphabet = sorted(set(content))
    assert data.classes == len(alphabet) == 10
    assert data.groups is not None
    spell = lambda tokens: "".join(alphabet[t] for t in tokens)  # noqa: E731
    for x, y in zip([*data.x, *data.test_x], [*data.y, *data.test_y], strict=True):
        assert spell(x) in content and spell(x)[1:] == spell(y)[:-1]
        assert spell(x) + spell(y)[-1] in content
    # 399 characters that have a successor make 49 sequences: chunks of 9 or 10, of which 2 each are held out.
    assert np.bincount(data.groups).tolist() == [7, 8, 8, 8, 8]
    assert len(data.test_x) == 10
    first = [spell(x) for x in data.x[data.groups == 0]]
    assert "".join(first) == content[: 7 * 8]


def test_text_faults(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("too short")
    with pytest.raises(
        UserError, match=r"9 characters make 4 sequences of 2; 3 groups need two each .*: 13 characters"
    ):
        load("text", path=path, sequence_length=2, groups=3)
    path.write_text("x" * 13)
    assert load("text", path=path, sequence_length=2, groups=3).x.shape == (3, 2)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="cannot be read as a UTF-8 text"):
        load("text", path=path)
