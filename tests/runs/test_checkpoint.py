from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmomentum.errors import UserError
from fedmomentum.runs import checkpoint
from fedmomentum.runs.checkpoint import latest_checkpoint, save_checkpoint

leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
states = st.dictionaries(
    st.text(),
    st.recursive(leaves, lambda s: st.lists(s) | st.dictionaries(st.integers() | st.text(), s), max_leaves=20),
)


def equal(a, b):
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


@given(states)
def test_what_is_written_is_read(tmp_path_factory, state):
    run = tmp_path_factory.mktemp("run")
    save_checkpoint(run, 3, state)
    round, found = latest_checkpoint(run)
    assert round == 3 and equal(state, found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool, torch.bfloat16])
def test_tensors_keep_bits_shapes_and_dtypes(tmp_path, dtype):
    shared = torch.arange(6).to(dtype).reshape(2, 3)
    save_checkpoint(tmp_path, 1, {"a": {7: shared}, "view": shared.T, "n": torch.tensor(3).to(dtype)})
    _, found = latest_checkpoint(tmp_path)
    for value, back in ((shared, found["a"][7]), (shared.T, found["view"]), (torch.tensor(3).to(dtype), found["n"])):
        assert back.dtype == dtype and back.shape == value.shape and torch.equal(back, value)


def test_keeps_the_newest(tmp_path):
    for round in range(1, 6):
        save_checkpoint(tmp_path, round, {"round": round}, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["round-000004", "round-000005"]
    assert latest_checkpoint(tmp_path) == (5, {"round": 5})


def test_no_checkpoint_is_none(tmp_path):
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("harm", ["truncate", "flip", "missing", "format"])
def test_a_damaged_checkpoint_is_passed_over_or_refused_with_the_reason(tmp_path, harm):
    save_checkpoint(tmp_path, 1, {"x": torch.zeros(4)}, keep=2)
    place = save_checkpoint(tmp_path, 2, {"x": torch.ones(4)}, keep=2)
    tensors = place / checkpoint.TENSORS
    if harm == "truncate":
        tensors.write_bytes(tensors.read_bytes()[:-3])
    elif harm == "flip":
        tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x01")
    elif harm == "missing":
        tensors.unlink()
    else:
        (place / checkpoint.STATE).write_text('{"format": 99}')
    round, state = latest_checkpoint(tmp_path)
    assert round == 1 and torch.equal(state["x"], torch.zeros(4))
    (tmp_path / "checkpoints/round-000001" / checkpoint.STATE).unlink()
    with pytest.raises(UserError, match="round-000002"):
        latest_checkpoint(tmp_path)


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\]: a set"):
        save_checkpoint(tmp_path, 1, {"a": [1, {2}]})
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"x": 1})

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, 2, {"x": 2})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["round-000001"]


WRITER = """
import sys, torch
from pathlib import Path
from fedmomentum.runs.checkpoint import save_checkpoint
print("ready", flush=True)
round = 0
while True:
    round += 1
    save_checkpoint(Path(sys.argv[1]), round, {"x": torch.full((200_000,), float(round))})
"""


@pytest.mark.slow
def test_a_process_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout.readline() == "ready\n"
        time.sleep(0.05 + 0.2 * torch.rand((), generator=rng).item())
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        found = latest_checkpoint(tmp_path)
        if found is not None:
            assert torch.equal(found[1]["x"], torch.full((200_000,), float(found[0])))
