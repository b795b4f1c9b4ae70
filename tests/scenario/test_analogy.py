"""The schema of the analogies is the library's: the same systems, options and defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

from fedmomentum.scenario import Fault
from fedmomentum.scenario.analogy import RACERS, System
from fedmomentum.scenario.shape import shape_of

BLOCKS = shape_of(System).blocks


@pytest.mark.parametrize("name", BLOCKS)
def test_settings_and_defaults_are_those_of_the_experiment(name: str) -> None:
    from fedmomentum.analogies import ANALOGIES

    assert BLOCKS.keys() == ANALOGIES.keys()
    taken = inspect.signature(ANALOGIES[name].simulate).parameters
    fields = BLOCKS[name].model_fields
    assert fields.keys() - {"name"} == taken.keys() - {"seed"}
    for key, parameter in taken.items():
        if key != "seed":
            assert fields[key].default == parameter.default, key


def test_every_rule_can_race() -> None:
    from fedmomentum.optim.registry import RULES

    assert set(RACERS) == set(RULES) - {"pid"}


def test_faults_name_the_place_and_the_near_name(faults_of: Callable[..., list[Fault]]) -> None:
    faults = faults_of("kind: analogy\nsystem: {name: spring, mometum: 0.9, lr: 0}\n")
    assert sorted((f.line, f.column) for f in faults) == [(2, 24), (2, 42)]
    text = "\n".join(f.message for f in faults)
    assert "did you mean 'momentum'" in text
    assert "expected a number > 0" in text
    (fault,) = faults_of("kind: analogy\nsystem: {name: sprung}\n")
    assert "did you mean 'spring'" in fault.message
    (fault,) = faults_of("kind: analogies\nsystem: {name: spring}\n")
    assert "did you mean 'analogy'" in fault.message
