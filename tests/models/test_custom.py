"""A user's own model, and every way of naming one wrongly."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from fedmomentum.errors import UserError
from fedmomentum.models import build

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, *, input_shape, classes, units=4):
        super().__init__()
        self.fc = nn.Linear(input_shape[0], units)
        self.out = nn.Linear(units, classes)

    def forward(self, x):
        return self.out(self.fc(x))

    @classmethod
    def wide(cls, *, input_shape, classes):
        return cls(input_shape=input_shape, classes=classes, units=64)

def a_list(*, input_shape, classes):
    return [1, 2]

def fails(*, input_shape, classes):
    raise RuntimeError("the user's own fault")

positional = lambda shape, classes: None
number = 3
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models.py").write_text(SOURCE)
    (tmp_path / "own_broken.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)


def make(name: str, **options: object) -> torch.nn.Module:
    return build(name, input_shape=(3,), classes=2, seed=5, **options)


def test_a_users_model_is_called_with_shape_classes_and_options() -> None:
    model = make("own_models:Net", units=7)
    assert model.get_parameter("fc.weight").shape == (7, 3)
    assert model.get_parameter("out.weight").shape == (2, 7)
    assert make("own_models:Net.wide").get_parameter("fc.weight").shape == (64, 3)


def test_a_users_model_is_seeded_too() -> None:
    first = make("own_models:Net").get_parameter("fc.weight")
    torch.rand(1)
    assert torch.equal(first, make("own_models:Net").get_parameter("fc.weight"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mpl", {}, "no model 'mpl': did you mean 'mlp'?"),
        ("transformer", {}, "no model 'transformer': There are linear, logistic, mlp"),
        ("mlp", {"hiden": [3]}, "unexpected keyword argument 'hiden'; its options are: hidden"),
        ("mlp", {"hidden": 200}, "hidden must be a list"),
        ("mlp", {"hidden": [3, 0]}, "hidden must be a list of positive"),
        ("logistic", {"init": "ones"}, "init must be 'zero' or 'small', not 'ones'"),
        ("lstm", {"layers": 0}, "layers must be a positive number, not 0"),
        ("gru", {"output": "first"}, "output must be 'every' or 'last', not 'first'"),
        ("cnn_mcmahan", {}, "wants images [channels, height, width]; the data's examples have shape [3]"),
        ("resnet", {}, "model 'resnet' wants images"),
        ("own_modls:Net", {}, "there is no module 'own_modls'"),
        ("own_models.sub:Net", {}, "there is no module 'own_models.sub'"),
        ("own_models:", {}, "must be written 'package.module:callable'"),
        (":Net", {}, "must be written 'package.module:callable'"),
        ("own_models:Nt", {}, "has no 'Nt'; did you mean 'Net'?"),
        ("own_models:Net.deep", {}, "has no 'Net.deep'"),
        ("own_models:number", {}, "'number' is a int, which cannot be called"),
        ("own_models:a_list", {}, "must return a torch.nn.Module, not a list"),
        ("own_models:positional", {}, "missing a required argument: 'shape'"),
        ("own_models:Net", {"width": 3}, "unexpected keyword argument 'width'; its options are: units"),
        ("builtins:dict", {}, "must return a torch.nn.Module, not a dict"),
    ],
)
def test_what_is_wrong_is_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        make(name, **options)
    assert f"'{name}'" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {"depth": 10}, "depth must be 6 n + 2"),
        ("resnet", {"depth": 2}, "depth must be 6 n + 2"),
        ("resnet", {"width": 0}, "width must be a positive number"),
        ("resnet", {"norm": "none"}, "norm must be 'batch' or 'group', not 'none'"),
        ("resnet", {"norm": "layer"}, "norm must be"),
        ("cnn_fedavgm", {"norm": "layer"}, "norm must be 'batch', 'group' or 'none', not 'layer'"),
        ("cnn_small", {"padding": 2}, "padding must be 0 or 1, not 2"),
        ("lstm", {}, "wants sequences of symbols [T]; the data's examples have [1, 8, 8]"),
        ("cnn_small", {}, "with padding: 1 it takes 4x4"),
    ],
)
def test_what_is_wrong_for_images_is_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        build(name, input_shape=(1, 8, 8), classes=2, seed=0, **options)


@pytest.mark.parametrize(("shape", "classes"), [((0,), 2), ((3, 0), 2), ((3,), 0)])
def test_data_that_leaves_no_numbers_is_refused(shape: tuple[int, ...], classes: int) -> None:
    with pytest.raises(UserError, match="leave it no numbers"):
        build("mlp", input_shape=shape, classes=classes, seed=0)


def test_a_fault_inside_the_users_module_keeps_its_own_traceback() -> None:
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        make("own_broken:Net")
    with pytest.raises(RuntimeError, match="the user's own fault"):
        make("own_models:fails")
