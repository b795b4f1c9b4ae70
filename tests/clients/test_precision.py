"""bf16 as an option: close to float32, the same bits every time, and refused where the hardware lacks it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedmomentum.clients import precision
from fedmomentum.clients.network import Network
from fedmomentum.clients.vectorize import training_path
from fedmomentum.clients.worker import Worker
from fedmomentum.errors import UserError

from .federation import federation, records, spec, train_task

IMAGE = {"shape": (1, 12, 12), "options": {}}


def trained(**settings):
    wanted = spec("cnn_small", **IMAGE, optimizer={"name": "heavy_ball", "lr": 1e-4, "momentum": 0.9}, **settings)
    data = federation((40, 24), shape=(1, 12, 12))
    result = Worker(wanted, data).run(train_task(range(2), reduce=True), records(wanted))
    assert result.failures == ()
    return result.mean["arrays"], records(wanted)["arrays"]


def test_bf16_rounds_the_layers_and_nothing_else():
    """Steps are much shorter than 2^-9 of a weight, so in parameters of bf16 they would be lost altogether."""
    (half, start), (full, _) = trained(precision="bf16"), trained()
    for name, x in full.items():
        assert half[name].dtype == np.float32
        moved, off = np.linalg.norm(x - start[name]), np.linalg.norm(half[name] - x)
        assert moved < 2**-9 * np.linalg.norm(start[name]) or name.endswith("bias")
        assert 0 < off < 0.25 * moved, name


@pytest.mark.parametrize("vectorize", ["on", "off"])
def test_bf16_gives_the_same_bits_every_time(vectorize):
    first, again = (trained(precision="bf16", vectorize=vectorize)[0] for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])


def test_full_gradients_are_taken_in_the_same_precision():
    data = federation((40,), shape=(1, 12, 12))
    found = []
    for wanted in (spec("cnn_small", **IMAGE, precision=p) for p in ("bf16", "float32")):
        task = train_task(range(1), kind="gradient", reduce=True)
        found.append(Worker(wanted, data).run(task, records(wanted)).mean["gradient"])
    for name, x in found[1].items():
        assert 0 < np.linalg.norm(found[0][name] - x) < 0.25 * np.linalg.norm(x)


def test_what_the_hardware_lacks_is_refused(monkeypatch):
    with pytest.raises(UserError, match=r"engine\.precision: tf32 is for NVIDIA GPUs; clients train on the cpu"):
        precision.check("tf32", "cpu")
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: False)
    with pytest.raises(UserError, match=r"CPU has no bfloat16 arithmetic.*Use float32"):
        precision.check("bf16", "cpu")
    precision.check("float32", "cpu")
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: True)
    precision.check("bf16", "cpu")


def test_the_run_folder_says_where_bf16_has_no_effect():
    for model, settings, words in (
        ("cnn_small", IMAGE, "torch's fused SGD; layers in bf16"),
        ("mlp", {}, "; in float32: bf16 is for autograd"),
    ):
        wanted = spec(model, **settings, precision="bf16")
        assert training_path(Network(wanted.model), wanted, np.array([20])).endswith(words)


def test_a_gpu_may_round_products_where_it_is_asked_to():
    both = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [flags.allow_tf32 for flags in both]
    try:
        for wanted in ("tf32", "float32", "tf32"):
            precision.adopt(wanted, "cuda")
            assert [flags.allow_tf32 for flags in both] == [wanted == "tf32"] * 2
    finally:
        for flags, value in zip(both, before, strict=True):
            flags.allow_tf32 = value
