from __future__ import annotations

from pathlib import Path

import pytest

from fedmomentum import scenario
from fedmomentum.runs import RunFolder, load_run
from fedmomentum.runs.settings import ABOUT, arms_of, flat, merge

TEXT = """
kind: federated
rounds: 3
seed: 7
data: {name: digits, partition: {name: iid, clients: 10}}
model: {name: mlp, hidden: [8]}
client: {optimizer: {name: sgd, lr: 1e-5}}
strategy: {name: fedavg}
"""


@pytest.mark.parametrize(
    ("more", "groups", "seeds"),
    [
        ("", [""], [7]),
        ("sweep: {seeds: 2}", ["", ""], [7, 8]),
        ("arms: {A: {}, B: {strategy: {name: fedavgm}}}", ["A", "B"], [7, 7]),
        ("arms: {A: {seed: 1, rounds: 9}, B: {seed: 2}}\nsweep: {seeds: 2}", ["A", "A", "B", "B"], [1, 2, 2, 3]),
        ("sweep: {grid: {client.epochs: [1, 2], seed: [1, 2]}}", ["epochs=1", "epochs=1", "epochs=2", "epochs=2"],
         [1, 2, 1, 2]),
        ("sweep: {grid: {seed: [1, 2], client.epochs: [1]}}", ["epochs=1", "epochs=1"], [1, 2]),
        ("sweep: {zip: {client.optimizer: [{name: adam, lr: 0.1}, {name: sgd, lr: 1e-7}]}}",
         ["optimizer=adam", "optimizer=sgd"], [7, 7]),
        ("sweep: {grid: {seed: [5, 3]}}", ["", ""], [5, 3]),
    ],
)  # fmt: skip
def test_each_arm_is_the_scenario_that_was_run(tmp_path: Path, more: str, groups: list[str], seeds: list[int]) -> None:
    """What is taken apart from the stored document equals what the loader validated for that arm."""
    path = tmp_path / "s.yaml"
    path.write_text(TEXT + more)
    loaded = scenario.load(path)
    folder = RunFolder.create(
        tmp_path, "s", scenario_text=loaded.text, resolved=loaded.resolved(), hash=loaded.hash
    )  # fmt: skip
    for arm in loaded.arms:
        folder.arm(arm.name)
    found = arms_of(load_run(folder.path))
    assert [arm.name for arm in found] == [arm.name for arm in loaded.arms]
    assert [arm.group for arm in found] == groups
    assert [arm.seed for arm in found] == seeds == [arm.scenario.seed for arm in loaded.arms]
    for one, arm in zip(found, loaded.arms, strict=True):
        assert one.settings == {k: v for k, v in arm.scenario.model_dump(mode="json").items() if k not in ABOUT}
        if arm.name:
            assert arms_of(load_run(one.run.path)) == [one], "the folder of a single arm tells the same"


def test_an_arm_that_the_scenario_itself_calls_a_seed(tmp_path: Path) -> None:
    resolved = {"name": "s", "seed": 4, "arms": {"A,seed=9": {"seed": 2}, "B": {}}}
    folder = RunFolder.create(tmp_path, "s", scenario_text="", resolved=resolved, hash="0")
    for name in ("A,seed=9", "B"):
        folder.arm(name)
    assert [(arm.group, arm.seed) for arm in arms_of(load_run(folder.path))] == [("A", 2), ("B", 4)]


def test_merge_and_flat() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": [1]}
    merged = merge(base, {"a": {"b": 3, "e": {"f": 4}}, "d": {"g": 5}})
    assert merged == {"a": {"b": 3, "c": 2, "e": {"f": 4}}, "d": {"g": 5}}
    assert base == {"a": {"b": 1, "c": 2}, "d": [1]}
    assert dict(flat({"a": {"b": 1, "c": {}}, "d": [1]})) == {"a.b": 1, "a.c": {}, "d": [1]}
