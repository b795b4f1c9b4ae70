"""What clients keep: the same bits in memory, in the scratch file, and through a checkpoint."""

from __future__ import annotations

import gc
from functools import partial

import numpy as np
import pytest
import torch

from fedmomentum import strategies as ours
from fedmomentum.clients.worker import Worker
from fedmomentum.runs import checkpoint
from fedmomentum.runs.atomic import NotWrittenError
from fedmomentum.simulation.executor import InlineExecutor
from fedmomentum.simulation.flower import to_arrays
from fedmomentum.simulation.grid import SimulationGrid
from fedmomentum.simulation.loop import run_rounds
from fedmomentum.simulation.memory import ClientMemory
from tests.clients.federation import federation, spec
from tests.simulation.test_engine import start

SIZE = 4 * 6 + 2 * 3 + 8


def state(value):
    return {
        "rule/velocity": {"w": torch.full((2, 3), value), "half": torch.full((3,), value, dtype=torch.bfloat16)},
        "rule/step": {"count": torch.tensor(int(value))},
        "empty": {"none": torch.empty(0, 4)},
    }


def equal(a, b):
    assert a.keys() == b.keys()
    for slot, tree in a.items():
        assert tree.keys() == b[slot].keys()
        for name, x in tree.items():
            assert x.dtype == b[slot][name].dtype and torch.equal(x, b[slot][name])


@pytest.mark.parametrize("limit", [None, 0, SIZE, 5 * SIZE])
def test_it_is_a_dict_whatever_stays_in_memory(tmp_path, limit):
    memory, model = ClientMemory(limit, tmp_path), {}
    rng = np.random.default_rng(0)
    for step in range(60):
        new = {int(c): state(float(step + c)) for c in rng.choice(20, 4, replace=False)}
        memory.update(new)
        model |= new
        assert list(memory) == sorted(model) and len(memory) == len(model)
        assert limit is None or memory.held <= limit
        assert memory.spilled == (0 if limit is None else max(0, len(model) - limit // SIZE))
        for client in model:
            assert client in memory
            equal(memory[client], model[client])
    assert 99 not in memory
    assert list(tmp_path.iterdir()) == []  # a file without a name: nothing is left behind


def test_the_file_does_not_grow_with_rounds_and_a_snapshot_stays(tmp_path):
    memory = ClientMemory(0, tmp_path)
    memory.update({c: state(1.0) for c in range(5)})
    taken = memory.snapshot()
    for value in (2.0, 3.0, 4.0):
        memory.update({c: state(value) for c in range(5)})
    for client in range(5):
        equal(taken[client], state(1.0))
        equal(memory[client], state(4.0))
    del taken
    gc.collect()
    memory.update({0: state(5.0)})
    grown = memory._scratch._end
    for value in range(6, 30):
        memory.update({c: state(float(value)) for c in range(5)})
    assert memory._scratch._end == grown <= 4 * 5 * SIZE


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(NotWrittenError, match="missing"):
        ClientMemory(0, tmp_path / "missing").update({0: state(1.0)})


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        (ours.Scaffold, {"method": "scaffold", "method_options": {"control": "steps"}}),
        (ours.FedAvg, {"keep_state": True}),
    ],
)
def test_spilled_state_and_its_checkpoints_change_no_bit(tmp_path, monkeypatch, strategy, options):
    data, wanted = federation(), spec(**options)

    def rounds(memory, first, last, arrays, half, saved=None):
        grid = SimulationGrid(
            InlineExecutor(partial(Worker, wanted), data), wanted, data.sizes, block_size=3, memory=memory
        )
        if saved is not None:
            grid.load_state_dict(saved)
        return run_rounds(half, grid, arrays, last, first_round=first), grid

    make = partial(strategy, fraction_evaluate=0.0, fraction_train=0.7)
    through, grid = rounds(ClientMemory(), 1, 4, start(wanted), make())
    assert grid.memory.spilled == 0 and len(grid.memory) > 3
    half = make()
    first, grid = rounds(ClientMemory(0, tmp_path), 1, 2, start(wanted), half)
    assert grid.memory.spilled == len(grid.memory) > 3 and grid.memory.held == 0
    monkeypatch.setattr(checkpoint, "SHARD", 1000)
    place = checkpoint.save_checkpoint(tmp_path, 2, {"grid": grid.state_dict(), "half": half.state_dict()})
    assert len(list(place.glob("tensors*.safetensors"))) > 2
    _, found = checkpoint.latest_checkpoint(tmp_path)
    again = make()
    again.load_state_dict(found["half"])
    second, grid = rounds(ClientMemory(0, tmp_path), 3, 4, first.arrays, again, found["grid"])
    assert grid.memory.spilled == len(grid.memory)
    for name, value in to_arrays(through.arrays).items():
        np.testing.assert_array_equal(value, to_arrays(second.arrays)[name], err_msg=name)
    next(place.glob("tensors-1.*")).write_bytes(b"harm")
    with pytest.raises(Exception, match=r"tensors-1.safetensors is damaged"):
        checkpoint.latest_checkpoint(tmp_path)
