"""A network that torch compiled trains as it does by autograd; where it cannot be compiled a message says why."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from fedmomentum.clients import compiled
from fedmomentum.clients.compiled import check
from fedmomentum.clients.vectorize import choose, training_path
from fedmomentum.clients.worker import Worker
from fedmomentum.errors import UserError
from tests.clients.federation import SIZES, federation, records, spec, train_task


@pytest.mark.slow
def test_it_equals_autograd_for_batches_of_any_size_whatever_comes_first():
    """Seven steps of 8 and one of 4, batches of 7, 5 and 1: two compilations, one of them for single examples."""
    found = {}
    for mode, clients in (("none", range(6)), ("default", range(6)), ("default", (4, 1, 5, 0, 3, 2))):
        wanted = spec(vectorize="off", compile=mode)
        worker = Worker(wanted, federation())
        result = worker.run(train_task(clients), records(wanted))
        assert not result.failures
        models = {c: each["arrays"] for c, each in zip(result.members["client"], result.each, strict=True)}
        found.setdefault(mode, []).append(models)
        assert ("compiled" in training_path(worker.network, wanted, np.array(SIZES))) == (mode == "default")
    (plain,), (first, again) = found["none"], found["default"]
    for client, model in plain.items():
        for name, x in model.items():
            np.testing.assert_allclose(first[client][name], x, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(first[client][name], again[client][name])
    assert any((first[c][n] != records(spec())["arrays"][n]).any() for c in first for n in first[c])


def test_without_a_compiler_it_is_refused(monkeypatch):
    model = nn.Linear(2, 2)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    check("none", model, "cpu")
    with pytest.raises(UserError, match=r"engine\.compile: there is no C\+\+ compiler .*g\+\+.* use none"):
        check("default", model, "cpu")
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name == "mine" else None)
    monkeypatch.setenv("CXX", "mine")
    check("default", model, "cpu")
    monkeypatch.delenv("CXX")
    with pytest.raises(UserError, match="no C"):
        Worker(spec(compile="default"), federation())
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="triton"):
        check("reduce-overhead", model, "cuda:0")


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.LSTM(2, 2)])
def test_layers_that_it_would_change_are_refused_by_name(layer):
    with pytest.raises(UserError, match=r"engine\.compile: '1' is a"):
        check("default", nn.Sequential(nn.Linear(2, 2), layer), "cpu")


def test_clients_train_one_after_another_then():
    assert not choose(nn.Linear(2, 2), "auto", "cpu", "default")[0]
    with pytest.raises(UserError, match="vectorize: auto or off"):
        choose(nn.Linear(2, 2), "on", "cpu", "default")
