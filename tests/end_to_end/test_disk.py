"""A disk that is full, or may not be written to: one line that says so, and what was written before stays."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
from safetensors import SafetensorError

import fedmomentum as fm
from fedmomentum.cli import main
from fedmomentum.runs.atomic import NotWrittenError, append_rows, read_rows, write_text, writing
from fedmomentum.runs.checkpoint import latest_checkpoint
from tests.end_to_end.tiny import same_models, write


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 300 kB, which only root may."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_is_told_and_the_run_goes_on_when_there_is_room(small_disk, tmp_path, capsys):
    path = write(tmp_path, rounds=6, checkpoint={"every": 1}, strategy={"name": "fedadam"})
    whole = fm.run(path, out=tmp_path / "whole")
    out = small_disk / "runs"
    room = os.statvfs(small_disk)
    filler = small_disk / "filler"
    left = 110_000  # enough to begin, too little for two checkpoints and a third that is being written
    filler.write_bytes(b"x" * (room.f_bavail * room.f_frsize - left))
    assert main(["run", str(path), "--out", str(out), "--quiet"]) == 2
    (folder,) = (out / "tiny").iterdir()
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith(f"{folder}/")
    assert said[-1].endswith(
        "cannot be written: the disk is full (No space left on device); free space on it, "
        f"then go on with: fedmomentum resume {folder}"
    )
    assert not any("Traceback" in line for line in said)
    assert latest_checkpoint(folder)[0] >= 1
    filler.unlink()
    assert main(["resume", str(folder), "--quiet"]) == 0
    assert same_models(whole.folder, folder)
    assert [row["round"] for row in fm.load_run(folder).metrics] == list(range(7))


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_for_safetensors(*args, **kwargs):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("after", range(3, 40, 6))
def test_wherever_the_disk_fills_up_it_is_told_and_nothing_is_lost(tmp_path, monkeypatch, capsys, after):
    """Every write after so many fails, as it does while a disk is full."""
    path = write(tmp_path, rounds=3, checkpoint={"every": 1})
    whole = fm.run(path, out=tmp_path / "whole")
    count = 0
    save = safetensors.torch.save_file

    def counting(real, fail):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            return fail() if count > after else real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr("fedmomentum.runs.atomic.sync", counting(fsync_path, full))
        patch.setattr("fedmomentum.runs.checkpoint.sync", counting(fsync_path, full))
        patch.setattr(safetensors.torch, "save_file", counting(save, full_for_safetensors))
        code = main(["run", str(path), "--out", str(tmp_path / "runs"), "--quiet"])
    said = capsys.readouterr().err
    assert code == (2 if count > after else 0)
    if code == 0:
        return
    assert "the disk is full" in said and "Traceback" not in said and "internal" not in said
    for folder in (tmp_path / "runs").glob("tiny/*"):
        assert f"fedmomentum resume {folder}" in said
        assert main(["resume", str(folder), "--quiet"]) == 0
        assert same_models(whole.folder, folder)
    assert not list((tmp_path / "runs").rglob("*.tmp")) and not list((tmp_path / "runs").rglob(".tmp-*"))


def fsync_path(path):
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


@pytest.fixture
def read_only(tmp_path):
    """Give a folder that nobody may write to, on a disk that is mounted so."""
    place = tmp_path / "read-only"
    place.mkdir()
    if os.geteuid() == 0:  # whom permissions do not stop
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", place], capture_output=True).returncode:
            pytest.skip("nothing is read-only here")
        yield place, lambda: subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        subprocess.run(["umount", place], check=True)
    else:
        yield place, lambda: [p.chmod(0o500 if p.is_dir() else 0o400) for p in (place, *place.rglob("*"))]


def test_a_folder_that_may_not_be_written_to_is_told(tmp_path, read_only, capsys):
    place, lock = read_only
    path = write(tmp_path)
    done = fm.run(path, out=place)
    lock()
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    capsys.readouterr()
    for command in (
        ["run", str(path), "--out", str(place / "new")],
        ["run", str(path), "--out", str(place)],
        ["sweep", str(path), "--out", str(place)],
        ["resume", str(done.folder), "--set", "rounds=9"],
    ):
        assert main([*command, "--quiet"]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(str(place)) and ("Read-only" in said or "Permission" in said)
    assert before == {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert main(["show", str(done.folder)]) == 0


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied; make it writable"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ],
)
def test_why_a_file_cannot_be_written_is_said_once(error, says):
    with pytest.raises(NotWrittenError, match=rf"^x/y: cannot be written: .*{says}"), writing(Path("x")):  # noqa: SIM117
        with writing(Path("x/y")):
            raise error


def test_what_is_no_matter_of_writing_passes():
    with pytest.raises(KeyError), writing(Path("x")):
        raise KeyError("x")


def test_rows_and_files_stay_as_they_were(tmp_path):
    if os.geteuid() == 0:
        with pytest.raises(NotWrittenError, match="x: cannot be written"):
            write_text(tmp_path / "no" / "x", "text")
    append_rows(tmp_path / "rows", [{"a": 1}])
    (tmp_path / "folder").mkdir()
    with pytest.raises(NotWrittenError, match="folder: cannot be written"):
        append_rows(tmp_path / "folder", [{"a": 1}])
    assert read_rows(tmp_path / "rows") == [{"a": 1}]
