"""A client's own data: every format gives the same examples, and what does not fit is refused by file and fault."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from fedmomentum.data.own import Wanted, own_data, read_own
from fedmomentum.errors import UserError

WANTED = Wanted((1, 3, 2), "float32", 4)
PIXELS = np.random.default_rng(0).integers(0, 256, (10, 3, 2), dtype=np.uint8)
LABELS = np.array([0, 0, 1, 1, 1, 2, 3, 3, 3, 3])


def as_npz(folder):
    np.savez(folder / "own.npz", x=PIXELS, y=LABELS)
    return folder / "own.npz"


def as_csv(folder):
    lines = ["a,b,label,c,d,e,f"]
    for x, y in zip(PIXELS.reshape(10, -1) / np.float64(255), LABELS, strict=True):
        lines.append(",".join([*(repr(float(v)) for v in x[:2]), str(y), *(repr(float(v)) for v in x[2:])]))
    (folder / "own.csv").write_text("\n".join(lines) + "\n")
    return folder / "own.csv"


def as_a_folder_of_one(folder):
    place = folder / "only"
    place.mkdir()
    (place / "README").write_text("where these come from")
    return as_npz(place).parent


def as_idx(folder):
    place = folder / "idx"
    place.mkdir()
    images = struct.pack(">BBBBIII", 0, 0, 8, 3, 10, 3, 2) + PIXELS.tobytes()
    (place / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    labels = struct.pack(">BBBBI", 0, 0, 8, 1, 10) + LABELS.astype(np.uint8).tobytes()
    (place / "train-labels-idx1-ubyte").write_bytes(labels)
    return place


def as_images(folder, names=("0", "1", "2", "3")):
    place = folder / "images"
    for number, (x, y) in enumerate(zip(PIXELS, LABELS, strict=True)):
        (place / names[y]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(place / names[y] / f"{number:02d}.png")
    (place / names[0] / "notes.txt").write_text("not an image")
    return place


@pytest.mark.parametrize(
    "made",
    [as_npz, as_csv, as_a_folder_of_one, as_idx, as_images, lambda f: as_images(f, ("ant", "bee", "cat", "dog"))],
)
def test_every_format_gives_the_same_examples(tmp_path, made):
    x, y = read_own(made(tmp_path), WANTED)
    np.testing.assert_array_equal(x, (PIXELS[:, None] / np.float32(255)).astype(np.float32))
    np.testing.assert_array_equal(y, LABELS)
    assert x.dtype == np.float32 and y.dtype == np.int64


def test_colour_images_put_their_channels_first(tmp_path):
    (tmp_path / "0").mkdir()
    picture = np.random.default_rng(1).integers(0, 256, (2, 5, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "0" / "a.png")
    x, _ = read_own(tmp_path, Wanted((3, 2, 5), "float32", 2))
    np.testing.assert_array_equal(np.rint(x[0] * 255), picture.transpose(2, 0, 1))


def csv_file(folder, text):
    (folder / "own.csv").write_text(text)
    return folder / "own.csv"


FEATURES = "a,b,c,d,e,f"
FAULTS = {
    "nothing": (lambda f: f / "absent", "no such file or folder"),
    "empty folder": (lambda f: f, "neither one .npz or .csv file, nor IDX files, nor a folder of images"),
    "two tables": (lambda f: (as_npz(f), as_csv(f))[0].parent, "own.csv and own.npz; name the file that is meant"),
    "unknown file": (lambda f: csv_file(f, "").rename(f / "own.txt"), "cannot tell what it is"),
    "no label": (lambda f: csv_file(f, FEATURES + "\n"), "needs one column 'label'"),
    "columns": (lambda f: csv_file(f, "a,b,label\n1,2,0\n"), r"own.csv:1: 2 columns .* have 6 numbers"),
    "ragged": (lambda f: csv_file(f, FEATURES + ",label\n1,2,3\n"), "own.csv:2: 3 cells"),
    "text": (lambda f: csv_file(f, FEATURES + ",label\n1,2,3,4,5,x,0\n"), "own.csv:2: a cell is no number"),
    "infinite": (lambda f: csv_file(f, FEATURES + ",label\n1,2,3,4,5,inf,0\n"), "own.csv:2: holds a number that is"),
    "class": (lambda f: csv_file(f, FEATURES + ",label\n1,2,3,4,5,6,4\n"), r"labels are in 4 .. 4; .* 0 .. 3"),
    "no rows": (lambda f: csv_file(f, FEATURES + ",label\n"), "holds no examples"),
    "folders": (lambda f: as_images(f, ("a", "a", "b", "c")), "3 folders of images for 4 classes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused_by_file_and_fault(tmp_path, fault):
    make, message = FAULTS[fault]
    with pytest.raises(UserError, match=message):
        read_own(make(tmp_path), WANTED)


def test_another_shape_type_or_size_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"shape \[1, 3, 2\]; the scenario needs \[1, 2, 3\]"):
        read_own(as_npz(tmp_path), Wanted((1, 2, 3), "float32", 4))
    with pytest.raises(UserError, match="examples are float32; the scenario needs int64"):
        read_own(as_npz(tmp_path), Wanted((1, 3, 2), "int64", 4))
    with pytest.raises(UserError, match="2 x 3 pixels; the scenario needs 3 x 3"):
        read_own(as_images(tmp_path), Wanted((1, 3, 3), "float32", 4))


def test_all_examples_are_those_of_one_client_whatever_its_number():
    x = PIXELS[:, None].astype(np.float32)
    data = own_data(x, LABELS, classes=4, client=7, validation=0.2, seed=0)
    assert list(data.sizes) == [0] * 7 + [8]
    held = np.concatenate([data.train_indices(7), data.validation_indices(7)])
    assert sorted(held) == list(range(10))
