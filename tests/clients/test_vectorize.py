"""What the recorded rule picks, and the words for it in the run folder."""

from __future__ import annotations

import re

import numpy as np
import pytest
from torch import nn

from fedmomentum.clients.library import available
from fedmomentum.clients.network import Network
from fedmomentum.clients.vectorize import STACK_LIMIT, choose, training_path
from fedmomentum.errors import UserError

from .federation import SIZES, spec

ADAM = {"name": "adam", "lr": 0.01}
IMAGE = {"options": {}, "shape": (1, 12, 12)}


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        (
            "logistic",
            {"options": {}},
            "the first layer in dual form for up to 94 examples a client, their products kept",
        ),
        ("logistic", {"options": {}, "gram_memory": 0}, "batched products with the momentum built in"),
        (
            "mlp",
            {"options": {"hidden": [40]}},
            "the first layer in dual form for up to 150 examples a client, their products kept",
        ),
        (
            "mlp",
            {"options": {"hidden": [40]}, "gram_memory": 0},
            "the first layer in dual form for up to 40 examples a client and pass (at most 2)",
        ),
        ("mlp", {"options": {"hidden": [31]}, "gram_memory": 0}, "momentum built in"),
        ("mlp", {"options": {"hidden": [40]}, "keep_state": True}, "momentum built in"),
        ("mlp", {"optimizer": ADAM}, "batched products, the rule itself"),
        ("mlp", {"vectorize": "off"}, "autograd, torch's fused SGD"),
        ("mlp", {"vectorize": "off", "optimizer": ADAM}, "autograd, the rule itself"),
        ("cnn_small", IMAGE, "convolutions written out, torch's fused SGD"),
        ("cnn_small", IMAGE | {"optimizer": ADAM}, "convolutions written out, the rule itself"),
        ("cnn_small", IMAGE | {"vectorize": "off"}, "autograd, torch's fused SGD"),
        ("cnn_fedavgm", IMAGE, "autograd, torch's fused SGD"),
        ("cnn_small", IMAGE | {"vectorize": "on"}, "vmap of autograd"),
    ],
)
def test_the_path_in_words(model, settings, words):
    wanted = spec(model, **settings)
    assert training_path(Network(wanted.model), wanted, np.array(SIZES)).endswith(words)


@pytest.mark.skipif(not available(), reason="the package was installed without a C compiler")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "compiled code"),
        ({"optimizer": {"name": "nesterov", "lr": 0.1, "weight_decay": 0.1}, "keep_state": True}, "compiled code"),
        ({"method": "scaffold", "optimizer": {"name": "sgd", "lr": 0.1}}, "compiled code"),
        ({"method": "mimelite"}, "batched products with the momentum built in"),
        ({"optimizer": ADAM}, "batched products, the rule itself"),
        ({"options": {"hidden": [1000]}}, "compiled code for batches of at least 3; smaller ones: .* products kept"),
        (
            {"options": {"hidden": [1000]}, "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 0.1}},
            "compiled code for batches of at least 3; smaller ones: batched products, the rule itself",
        ),
        ({"options": {"hidden": [8000]}}, "batched products with the momentum built in; .* products kept"),
    ],
)
def test_compiled_code_in_words(settings, words):
    wanted = spec("mlp", native=True, **settings)
    assert re.fullmatch(words, training_path(Network(wanted.model), wanted, np.array(SIZES)))


def test_what_is_trained_on_numbers_has_no_dual_form():
    wanted = spec("mlp", options={"hidden": [40]})
    path = training_path(Network(wanted.model), wanted, np.array(SIZES), numbers=True)
    assert path == "batched products with the momentum built in"


def test_auto_goes_by_model_and_device_alone():
    dense = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    wide = nn.Sequential(nn.Flatten(), nn.Linear(1000, STACK_LIMIT // 1000))
    convolution = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    norm = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    assert [choose(m, "auto", "cpu")[0] for m in (dense, wide, convolution, norm)] == [True, False, False, False]
    assert [choose(m, "auto", "cuda")[0] for m in (dense, wide, convolution, norm)] == [True, True, True, False]
    assert choose(convolution, "on", "cpu")[0] and not choose(dense, "off", "cuda")[0]
    with pytest.raises(UserError, match="batch-norm statistics"):
        choose(norm, "on", "cpu")
