"""What comes with the package: scenarios that load, a reference that is current, an import that is light."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedmomentum.scenario import FederatedScenario, choices, describe, load, questions, schema_json, shipped
from fedmomentum.scenario.reference import markdown

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_scenario_loads_and_asks_a_question(name: str) -> None:
    loaded = load(name)
    assert loaded.scenario.name == name
    assert loaded.scenario.question.endswith("?")
    assert questions()[name] == loaded.scenario.question
    assert len(loaded.arms) > 1 or loaded.scenario.kind == "analogy"
    assert all(name.startswith("flwr.") for name in loaded.callables)  # nobody's code but ours and Flower's


def test_a_folder_of_the_same_name_does_not_hide_a_shipped_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert load("quickstart").scenario.rounds == 60
    (tmp_path / "quickstart").rmdir()
    (tmp_path / "quickstart").write_text(shipped()["quickstart"].read_text().replace("rounds: 60", "rounds: 3"))
    assert load("quickstart").scenario.rounds == 3


def test_the_quickstart_compares_two_arms_of_a_hundred_clients() -> None:
    loaded = load("quickstart")
    assert [arm.name for arm in loaded.arms] == ["FedAvg", "FedAvgM"]
    for arm in loaded.arms:
        scenario = arm.scenario
        assert (scenario.data.name, scenario.data.population) == ("digits", 100)
        assert getattr(scenario.participation, "fraction", None) == 0.1


def test_the_reference_is_current() -> None:
    file = ROOT / "docs" / "scenarios.md"
    assert file.read_text() == markdown(), "run: python -m fedmomentum.scenario.reference > docs/scenarios.md"


def test_every_yaml_example_of_the_reference_is_yaml_and_the_first_is_a_scenario(tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", markdown(), flags=re.DOTALL)
    assert len(examples) == 4
    for number, more in enumerate(["", *examples[1:3]]):
        file = tmp_path / f"s{number}.yaml"
        file.write_text(examples[0] + more)
        load(file)
    file.write_text(examples[0] + examples[1] + examples[3])
    assert len(load(file).scenario.expect) == 3


def test_every_setting_says_what_it_is_for() -> None:
    for section in describe():
        assert section.summary
        for row in section.settings:
            assert row.description or row.name == "name", f"{section.path} {section.name}: {row.name}"


def test_choices_are_the_names_that_the_schema_knows() -> None:
    assert list(choices("strategy")) == [
        "fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "fedadamw", "fedopt",
        "slowmo", "fedgm", "fedexp", "fedprox", "scaffold", "feddyn", "fedcm", "fedadc", "domo",
        "mimelite", "mime", "fednova", "fednag", "fedbn",
        "fedsghmc", "fald", "fsgld", "dglmc", "qlsd", "fedpa", "package.module:callable",
    ]  # fmt: skip
    assert "heavy_ball" in choices("client.optimizer")
    assert set(choices("data.partition")) >= {"iid", "dirichlet", "natural"}
    assert choices("participation.availability").keys() == {"cyclic"}
    for path in ("client", "client.nothing", "", "strategy.server_momentum"):
        with pytest.raises(KeyError):
            choices(path)


def test_the_json_schema_is_json_and_allows_no_unknown_keys() -> None:
    schema = json.loads(schema_json())
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["rounds", "data", "model", "client", "strategy"]


def test_a_scenario_is_frozen() -> None:
    scenario = load("quickstart").scenario
    with pytest.raises(Exception, match="frozen"):
        scenario.rounds = 3
    assert isinstance(scenario, FederatedScenario)


def test_importing_and_loading_take_neither_torch_nor_ray_nor_flwr() -> None:
    program = (
        "import sys, fedmomentum.scenario as s; s.load('quickstart'); s.schema_json();"
        "print([m for m in ('torch', 'ray', 'flwr', 'numpy', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
