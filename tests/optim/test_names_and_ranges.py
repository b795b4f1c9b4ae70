"""Rules by name, and what each refuses."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from fedmomentum.errors import UserError
from fedmomentum.optim import RULES, HyperparameterError, hyperparameters, make_rule


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("heavy_bal", {"lr": 0.1}, "unknown rule 'heavy_bal'; did you mean 'heavy_ball'"),
        ("xyz", {"lr": 0.1}, "unknown rule 'xyz'; there are: sgd, heavy_ball"),
        ("heavy_ball", {"lr": 0.1, "momentun": 0.9}, "'momentun'; did you mean 'momentum'"),
        ("adam", {}, "'adam' needs lr"),
        ("sgd", {"lr": -0.1}, "lr must be a finite number of at least 0, not -0.1"),
        ("sgd", {"lr": "0.1"}, "lr must be a number, not '0.1'"),
        ("sgd", {"lr": True}, "lr must be a number, not True"),
        ("sgd", {"lr": float("nan")}, "lr must be .*, not nan"),
        ("sgd", {"lr": torch.tensor([0.1, float("inf")])}, r"lr must be .*, not inf \(copy 1\)"),
        ("sgd", {"lr": 0.1, "weight_decay": -1.0}, "weight_decay must be .* at least 0, not -1"),
        ("sgd", {"lr": 0.1, "decay": "L2"}, "unknown kind of decay 'L2'; there are: l2, decoupled"),
        ("heavy_ball", {"lr": 0.1, "momentum": 1.5}, r"momentum must be in \[-1, 1\], not 1.5"),
        ("heavy_ball", {"lr": 0.1, "dampening": -0.5}, r"dampening must be in \[0, 1\], not -0.5"),
        ("ema", {"lr": 0.1, "momentum": -1.1}, r"momentum must be in \[-1, 1\], not -1.1"),
        ("nesterov", {"lr": 0.1, "momentum": torch.tensor([0.5, 2.0])}, r"not 2 \(copy 1\)"),
        ("adagrad", {"lr": 0.1, "initial_second_moment": -1.0}, "initial_second_moment must be .* at least 0"),
        ("adam", {"lr": 0.1, "initial_second_moment": torch.ones(2)}, "initial_second_moment must be one number"),
        ("rmsprop", {"lr": 0.1, "alpha": 1.1}, r"alpha must be in \[0, 1\], not 1.1"),
        ("rmsprop", {"lr": 0.1, "momentum": -0.1}, r"momentum must be in \[0, 1\], not -0.1"),
        ("adam", {"lr": 0.1, "beta1": 1.0}, r"beta1 must be in \[0, 1\), not 1"),
        ("adam", {"lr": 0.1, "beta2": 1.0}, r"beta2 must be in \[0, 1\), not 1"),
        ("adam", {"lr": 0.1, "eps": -1e-8}, "eps must be a finite number of at least 0"),
        ("adam", {"lr": 0.1, "count_offset": -1}, "count_offset must be a whole number of at least 0, not -1"),
        ("yogi", {"lr": 0.1, "beta2": -0.1}, r"beta2 must be in \[0, 1\), not -0.1"),
        ("lion", {"lr": 0.1, "beta1": 2}, r"beta1 must be in \[0, 1\), not 2"),
    ],
)
def test_wrong_hyperparameters_are_named(name: str, hyper: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make_rule(name, **hyper)
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize("name", RULES)
def test_make_rule_calls_the_factory_of_that_name(name: str) -> None:
    assert RULES[name].__name__ == name
    assert hyperparameters(name)["lr"] is inspect.Parameter.empty
    assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(RULES[name]).parameters.values())
    x = {"w": torch.ones(3)}
    by_name, by_factory = make_rule(name, lr=0.1), RULES[name](lr=0.1)
    a, _ = by_name.update(x, by_name.init(x), x)
    b, _ = by_factory.update(x, by_factory.init(x), x)
    assert torch.equal(a["w"], b["w"])


def test_names_are_not_settable() -> None:
    with pytest.raises(TypeError):
        RULES["sgd"] = None  # type: ignore[index]


def test_a_tensor_without_axes_and_a_whole_number_are_numbers() -> None:
    x = {"w": torch.ones(3)}
    expected, _ = make_rule("sgd", lr=1.0).update(x, make_rule("sgd", lr=1.0).init(x), x)
    for lr in (1, torch.tensor(1.0), torch.tensor(1)):
        rule = make_rule("sgd", lr=lr)
        assert torch.equal(rule.update(x, rule.init(x), x)[0]["w"], expected["w"])


def test_an_unknown_name_is_an_error_for_people_and_for_code() -> None:
    assert issubclass(HyperparameterError, UserError)
    assert issubclass(HyperparameterError, ValueError)
