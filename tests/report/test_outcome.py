"""Which pictures a run leaves: over rounds, over bytes where arms cost unlike, over a setting that arms differ in."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmomentum.report.outcome import against, draw_outcome, traffic_differs
from fedmomentum.scenario import load
from tests.report.made_runs import Made, make

SCENARIO = """
kind: federated
rounds: 2
data: {name: digits, partition: {name: dirichlet, clients: 4, alpha: 1}}
model: {name: logistic}
client: {optimizer: {name: sgd, lr: 0.1}}
strategy: {name: fedavg}
"""
ARMS = "arms: {FedAvg: {}, heavy ball: {strategy: {name: fedavgm}}}\n"


def scenario(tmp_path: Path, more: str):  # type: ignore[no-untyped-def]
    file = tmp_path / "s.yaml"
    file.write_text(SCENARIO + more)
    return load(file)


def rows(last: float, cost: float = 1.0):  # type: ignore[no-untyped-def]
    each = {"replies": 2, "bytes_down": cost, "bytes_up": cost}
    return [{"round": 0, "accuracy": 0.1}, {"round": 1, **each}, {"round": 2, "accuracy": last, **each}]


def test_arms_over_a_sweep_are_curves_over_its_setting(tmp_path: Path) -> None:
    loaded = scenario(tmp_path, ARMS + "sweep: {grid: {data.partition.alpha: [10, 0.1, 1]}, seeds: 2}\n")
    values = {arm.name: rows((0.5 if "heavy" in arm.name else 0.2) + 0.01 * arm.scenario.seed) for arm in loaded.arms}
    found = against(loaded, values, "accuracy")
    assert found is not None and found[0] == "alpha"
    assert [(c.name, c.rounds, c.seeds) for c in found[1]] == [
        ("FedAvg", [0.1, 1.0, 10.0], 2),
        ("heavy ball", [0.1, 1.0, 10.0], 2),
    ]
    assert [c.mean[0] for c in found[1]] == pytest.approx([0.205, 0.505]) and found[1][0].high == pytest.approx(
        [0.21] * 3
    )


def test_no_curve_where_two_settings_move_or_an_arm_has_none(tmp_path: Path) -> None:
    two = scenario(tmp_path, "sweep: {grid: {data.partition.alpha: [10, 0.1, 1], client.optimizer.lr: [1, 2, 3]}}\n")
    assert against(two, {}, "accuracy") is None
    some = scenario(tmp_path, "arms: {a: {data.partition.alpha: 1}, b: {data.partition.alpha: 2}, c: {}}\n")
    assert against(some, {}, "accuracy") is None
    assert against(scenario(tmp_path, ARMS), {}, "accuracy") is None


def test_bytes_differ_where_an_arm_sends_more_for_a_client() -> None:
    assert traffic_differs({"a": rows(0.1), "b": rows(0.2, cost=2.0)}, "accuracy")
    assert not traffic_differs({"a": rows(0.1), "b": rows(0.2, cost=1.05)}, "accuracy")
    fewer = [row for row in rows(0.2) if row["round"] != 1]  # the same cost a client, in fewer rounds
    assert not traffic_differs({"a": rows(0.1), "b": fewer}, "accuracy")
    assert not traffic_differs({"a": rows(0.1), "b": [{"round": 0, "accuracy": 0.1}]}, "accuracy")


def test_the_pictures_of_a_run(tmp_path: Path) -> None:
    cheap = make(tmp_path, Made(arms={"FedAvg": 0.1, "heavy ball": 0.2}))
    loaded = scenario(tmp_path, ARMS)
    arms = {arm: [row for row in cheap.metrics if row["arm"] == arm] for arm in ("FedAvg", "heavy ball")}
    names = {path.name for path in draw_outcome(cheap, loaded, arms, tmp_path / "plots")}
    assert {"accuracy.png", "accuracy.svg", "loss.png", "loss.svg"} == names
    dear = {
        "FedAvg": arms["FedAvg"],
        "heavy ball": [r | {"bytes_up": 3 * r.get("bytes_up", 0)} for r in arms["FedAvg"]],
    }
    names = {path.name for path in draw_outcome(cheap, loaded, dear, tmp_path / "plots")}
    assert "accuracy-bytes.png" in names
