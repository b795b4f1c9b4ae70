"""The schema names what the library has: the same settings, the same defaults, nothing that nobody takes.

The schema must not import the library, so the two are held together here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from fedmomentum.scenario.block import CUSTOM, Block
from fedmomentum.scenario.data import Data, Partition
from fedmomentum.scenario.model import Model
from fedmomentum.scenario.optimizer import Optimizer
from fedmomentum.scenario.shape import shape_of
from fedmomentum.scenario.strategy import Strategy

GIVEN = {"name", "input_shape", "classes", "labels", "groups", "examples", "clients", "seed", "partition"}
"""What the builder fills in, or what is not an argument of the function."""


def blocks(union: Any) -> Mapping[str, type[Block]]:
    found = shape_of(union).blocks
    return {name: block for name, block in found.items() if name != CUSTOM}


def agree(name: str, block: type[Block], function: Callable[..., Any], ours: set[str]) -> None:
    parameters = inspect.signature(function).parameters
    taken = {key for key, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    fields = set(block.model_fields) - ours
    assert fields <= taken, f"{name}: {sorted(fields - taken)} would be refused by {function.__name__}"
    for key in fields:
        default, info = parameters[key].default, block.model_fields[key]
        if default is not inspect.Parameter.empty and not info.is_required():
            assert info.default == default, f"{name}.{key}: {info.default!r} here, {default!r} there"


@pytest.mark.parametrize("name", blocks(Data))
def test_data_sets(name: str) -> None:
    found = pytest.importorskip("fedmomentum.data.load").DATASETS
    assert blocks(Data).keys() == found.keys()
    agree(name, blocks(Data)[name], found[name], {"name", "partition", "validation", "shift"})


@pytest.mark.parametrize("name", blocks(Partition))
def test_partitions(name: str) -> None:
    found = pytest.importorskip("fedmomentum.data.partitioners").PARTITIONERS
    assert blocks(Partition).keys() == found.keys()
    agree(name, blocks(Partition)[name], found[name], {"name", "clients"})
    taken = set(inspect.signature(found[name]).parameters) - GIVEN
    assert taken <= set(blocks(Partition)[name].model_fields)


@pytest.mark.parametrize("name", blocks(Model))
def test_models(name: str) -> None:
    found = pytest.importorskip("fedmomentum.models.registry").MODELS
    assert blocks(Model).keys() == found.keys()
    block = blocks(Model)[name]
    agree(name, block, found[name], {"name"})
    assert set(inspect.signature(found[name]).parameters) - GIVEN <= set(block.model_fields)


@pytest.mark.parametrize("name", blocks(Optimizer))
def test_optimizers(name: str) -> None:
    optim = pytest.importorskip("fedmomentum.optim")
    rules = getattr(optim, "RULES", None)
    if rules is None:
        pytest.skip("the rules are not there")
    assert set(blocks(Optimizer)) <= set(rules)
    block = blocks(Optimizer)[name]
    values = {key: info.default for key, info in block.model_fields.items() if not info.is_required()} | {"lr": 0.1}
    optim.make_rule(**pytest.importorskip("fedmomentum.build").optimizer(block(name=name, **values)))


@pytest.mark.parametrize("name", [name for name in blocks(Strategy) if name != "fedopt"])
def test_strategies(name: str) -> None:
    found = getattr(pytest.importorskip("fedmomentum.strategies"), "STRATEGIES", None)
    if found is None:
        pytest.skip("the strategies are not there")
    assert set(blocks(Strategy)) <= set(found)
    block = blocks(Strategy)[name]
    values = {key: info.default for key, info in block.model_fields.items() if not info.is_required()}
    if values.get("temperature", 1.0) is None:  # the builder fills it in: one over the number of examples
        del values["temperature"]
    found[name](**values)


@pytest.mark.parametrize("name", blocks(Optimizer))
def test_defaults_of_optimizers_are_those_of_the_rules(name: str) -> None:
    known = getattr(pytest.importorskip("fedmomentum.optim"), "hyperparameters", None)
    if known is None:
        pytest.skip("the rules are not there")
    hyper = pytest.importorskip("fedmomentum.build").optimizer(blocks(Optimizer)[name](name=name, lr=0.1))
    rule = known(hyper.pop("name"))
    assert {key: value for key, value in hyper.items() if key != "lr" and value != rule[key]} == {}
