"""Whatever a file holds, loading it gives a scenario or faults with places: never another error, never a hang."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedmomentum.scenario import ScenarioError, as_yaml, load, shipped
from fedmomentum.scenario.dump import as_yaml as dump
from fedmomentum.scenario.tree import parse
from tests.nightly import examples

DOCUMENTS = [parse(file.read_text())[0].plain() for file in shipped().values()]
WORDS = [
    "name",
    "iid",
    "fedavg",
    "adam",
    "rounds",
    "a.b:c",
    "strategy.name",
    "auto",
    "",
    "1e-3",
    "no",
    "<<",
    "\u0085",
    "é",
]
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(WORDS), st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(WORDS) | st.sampled_from(["lr", "arms", "sweep", "grid", "zip"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)


def holders(value: Any) -> list[Any]:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value] * bool(inner) + [found for item in inner for found in holders(item)]


@st.composite
def mutants(draw: st.DrawFn) -> Any:
    document = copy.deepcopy(draw(st.sampled_from(DOCUMENTS)))
    for _ in range(draw(st.integers(1, 4))):
        places = holders(document)
        if not places:
            break
        holder = draw(st.sampled_from(places))
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = draw(st.sampled_from(keys))
        match draw(st.sampled_from(["delete", "rename", "replace", "move"])):
            case "delete":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(WORDS) | st.just(f"{key}x"))] = holder.pop(key)
            case "move":
                other = draw(st.sampled_from(places))
                if isinstance(other, dict):
                    other[str(key)] = copy.deepcopy(holder[key])
            case _:
                holder[key] = draw(values)
    return document


def load_or_faults(file: Path) -> None:
    began = time.process_time()
    try:
        loaded = load(file)
    except ScenarioError as error:
        assert error.faults
        for fault in error.faults:
            assert fault.message
            assert fault.line is not None and fault.line >= 1
            assert "\n" not in str(fault)
    else:
        assert load(write(file.with_name("resolved.yaml"), as_yaml(loaded.resolved()))).hash == loaded.hash
    assert time.process_time() - began < 20


def write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


@settings(max_examples=examples(500), suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(document=mutants())
def test_a_mutated_scenario_loads_or_tells_its_faults(document: Any, tmp_path: Path) -> None:
    load_or_faults(write(tmp_path / "s.yaml", dump(document)))


@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutilated_text_loads_or_tells_its_faults(data: st.DataObject, tmp_path: Path) -> None:
    text = data.draw(st.sampled_from(list(shipped().values()))).read_text()
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 20))
    junk = data.draw(st.text(st.sampled_from("{}[]:,&*!|>'\"%@`#-? \t\na1\\~"), max_size=6))
    load_or_faults(write(tmp_path / "s.yaml", text[:at] + junk + text[at + cut :]))


@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(override=st.text(max_size=20) | st.builds("{}={}".format, st.sampled_from(WORDS), st.text(max_size=12)))
@example("client.optimizer=[{")
@example("arms.A.arms.B=1")
@example("sweep.grid={a: {b: 1}}")
def test_any_override_loads_or_is_told(override: str) -> None:
    try:
        load("quickstart", [override])
    except ScenarioError as error:
        assert all(str(fault) for fault in error.faults)


@pytest.mark.parametrize("char", ["[", "{", "- ", "? ", "&a ", "!", "'", '"', "a: ", "*", "a: b\n", "\t", "|\n", "%"])
def test_a_long_file_of_one_thing_does_not_hang(char: str, tmp_path: Path) -> None:
    began = time.process_time()
    load_or_faults(write(tmp_path / "s.yaml", char * (200_000 // len(char))))
    assert time.process_time() - began < 20
