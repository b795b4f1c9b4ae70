from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from fedmomentum.errors import UserError
from fedmomentum.runs import load_run
from fedmomentum.runs.compare import Point, compare, first_at, less_is_better, trace
from tests.runs.conftest import Store

AVG, AVGM = {"strategy": {"name": "fedavg"}}, {"strategy": {"name": "fedavgm"}}
ARMS = {"arms": {"FedAvg": AVG, "FedAvgM": AVGM}, "sweep": {"seeds": 3}, "rounds": 2}
FINALS = {"FedAvg": [0.50, 0.60, 0.40], "FedAvgM": [0.70, 0.75, 0.65]}


def seeded(finals: dict[str, list[float]]) -> dict[str, list[float]]:
    return {f"{arm},seed={s}": [0.1, 0.3, v] for arm, values in finals.items() for s, v in enumerate(values)}


def test_seeds_are_one_candidate_and_differences_are_paired(store: Store) -> None:
    found = compare([load_run(store(seeded(FINALS), ARMS))])
    assert [(one.label, one.seeds) for one in found.candidates] == [("FedAvg", [0, 1, 2]), ("FedAvgM", [0, 1, 2])]
    assert found.metric == "accuracy" and not found.less and found.notes == []
    a, b = FINALS.values()
    for one, values in zip(found.candidates, (a, b), strict=True):
        low, high = stats.t.interval(0.95, 2, sum(values) / 3, stats.sem(values))
        assert (one.final.low, one.final.high) == pytest.approx((low, high))
    difference = found.difference(found.candidates[1])
    paired = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert difference is not None and difference.mean == pytest.approx(0.2)
    assert (difference.low, difference.high) == pytest.approx((paired.low, paired.high))
    assert found.difference(found.candidates[0]) is None


def test_pairs_are_matched_by_seed_and_not_by_order(store: Store) -> None:
    first = store({"FedAvg,seed=0": [0.1], "FedAvg,seed=1": [0.2], "FedAvg,seed=2": [0.9]}, ARMS)
    other = store({"FedAvgM,seed=2": [0.8], "FedAvgM,seed=1": [0.3], "FedAvgM,seed=5": [0.0]}, ARMS)
    found = compare([load_run(first), load_run(other)])
    assert found.candidates[1].seeds == [1, 2, 5]
    difference = found.difference(found.candidates[1])
    assert difference is not None and difference.count == 2
    assert difference.mean == pytest.approx(((0.3 - 0.2) + (0.8 - 0.9)) / 2)


def test_seeds_from_several_runs_join_whatever_the_runs_are_called(store: Store) -> None:
    one = {"rounds": 2, "client": {"lr": 0.1}}
    paths = [store({"": [0.1, 0.2, 0.3 + s]}, {"seed": s, **one}, name=f"run{s}") for s in range(3)]
    found = compare([load_run(path) for path in (*paths, paths[1])])
    assert [one.seeds for one in found.candidates] == [[0, 1, 2]]
    assert found.candidates[0].finals == pytest.approx({0: 0.3, 1: 1.3, 2: 2.3})


def test_the_same_seed_twice_is_no_second_sample(store: Store) -> None:
    paths = [store(seeded(FINALS), ARMS) for _ in range(2)]
    found = compare([load_run(path) for path in paths])
    assert [len(one.outcomes) for one in found.candidates] == [3, 3, 3, 3]
    assert {one.label for one in found.candidates} == {
        f"{arm} [{path.name}]" for arm in FINALS for path in paths
    }  # fmt: skip
    assert {o.source.folder.name for o in found.candidates[0].outcomes} == {paths[0].name}


def test_candidates_of_one_name_are_told_apart_by_their_settings(store: Store) -> None:
    runs = [load_run(store({"": [0.1, 0.2]}, {"client": {"optimizer": {"lr": lr}}})) for lr in (0.1, 0.2)]
    assert [one.label for one in compare(runs).candidates] == ["quick lr=0.1", "quick lr=0.2"]
    both = {"a": {"lr": 1}, "b": {"lr": 2}}, {"a": {"lr": 3}, "b": {"lr": 4}}
    runs = [load_run(store({"": [0.1, 0.2]}, {"client": settings})) for settings in both]
    assert [one.label for one in compare(runs).candidates] == [
        "quick client.a.lr=1,client.b.lr=2",
        "quick client.a.lr=3,client.b.lr=4",
    ]
    runs = [load_run(store({"A": [0.1]}, {"x": n, "arms": {"A": {}}}, name=name)) for n, name in enumerate("pq")]
    assert [one.label for one in compare(runs).candidates] == ["A [p]", "A [q]"]


@pytest.mark.parametrize(
    ("values", "target", "less", "expected"),
    [
        ([0.1, 0.5, 0.4, 0.9], 0.5, False, 1),
        ([0.1, 0.5, 0.4, 0.9], 0.51, False, 3),
        ([0.1, 0.5, 0.4, 0.9], 0.91, False, None),
        ([0.9, 0.5], 0.5, False, 0),
        ([2.0, 1.0, 0.5], 1.0, True, 1),
        ([2.0, 1.0, 0.5], 0.4, True, None),
        ([math.nan, math.inf, 0.8], 0.5, False, 2),
        ([-math.inf, 0.2], 0.5, True, 1),
        ([], 0.5, False, None),
    ],
)
def test_the_first_round_at_the_target(values: list[float], target: float, less: bool, expected: int | None) -> None:
    points = trace([{"round": n, "m": value} for n, value in enumerate(values)], "m")
    found = first_at(points, target, less=less)
    assert (found and found.round) == expected


def test_costs_add_up_over_all_rounds_also_those_that_were_not_evaluated() -> None:
    rows: list[dict[str, Any]] = [
        {"round": 0, "accuracy": 0.1, "elapsed": 1.0},
        {"round": 1, "bytes_down": 100, "bytes_up": 50, "elapsed": 2.0},
        {"round": 2, "accuracy": 0.5, "bytes_down": 100, "bytes_up": 40, "elapsed": 4.0},
        {"round": 3, "accuracy": 0.6, "bytes_down": 100, "elapsed": 8.0},
    ]
    assert trace(rows, "accuracy") == [Point(0, 0.1, 0, 1), Point(2, 0.5, 290, 4), Point(3, 0.6, 390, 8)]
    uncounted = trace(
        [{"round": 0, "accuracy": 0.1, "seconds": 1.5}, {"round": 1, "accuracy": 0.2, "seconds": 2}], "accuracy"
    )
    assert [point.seconds for point in uncounted] == [1.5, 3.5]
    assert all(math.isnan(point.bytes) for point in uncounted)


def test_costs_to_the_target_are_medians_in_which_never_is_late(store: Store) -> None:
    curves = {"A,seed=0": [0.1, 0.9, 0.9, 0.9], "A,seed=1": [0.1, 0.2, 0.3, 0.8], "A,seed=2": [0.1, 0.1, 0.1, 0.1]}
    curves |= {f"B,seed={s}": [0.1, 0.2, 0.3, 0.3 + 0.5 * (s == 0)] for s in range(3)}
    found = compare([load_run(store(curves, {"arms": {"A": {"x": 1}, "B": {}}, "sweep": {"seeds": 3}}))], target=0.8)
    a, b = found.candidates
    assert (a.reached, a.cost("round"), a.cost("bytes"), a.cost("seconds")) == (2, 3, 450, 6)
    assert (b.reached, b.cost("round"), b.cost("bytes"), b.cost("seconds")) == (1, None, None, None)


def test_of_a_loss_less_is_better(store: Store) -> None:
    found = compare([load_run(store({"": [2.0, 0.5, 1.0]}, metric="loss"))], target=1.0)
    (one,) = found.candidates
    assert found.metric == "loss" and found.less
    assert (one.final.mean, one.best.mean, one.cost("round")) == (1.0, 0.5, 1)
    assert all(map(less_is_better, ("train_loss", "client_loss", "seconds_train", "bytes_up", "elapsed")))
    assert not any(map(less_is_better, ("accuracy", "client_accuracy", "f1", "replies")))


def test_a_seed_that_diverged_is_not_averaged_away(store: Store) -> None:
    curves = {"A,seed=0": [0.1, 0.9], "A,seed=1": [0.1, math.nan]}
    found = compare([load_run(store(curves, {"arms": {"A": {}}, "sweep": {"seeds": 2}}))])
    assert math.isnan(found.candidates[0].final.mean)
    assert found.candidates[0].best.mean == pytest.approx(0.5)
    assert found.notes == ["A: 1 of 2 diverged, so there is no mean"]


def test_doubts_are_told(store: Store) -> None:
    data = [{"data": {"name": name}, "rounds": 5, "seed": n} for n, name in enumerate(("digits", "mnist"))]
    runs = [load_run(store({"": [0.1] * (3 + n)}, settings)) for n, settings in enumerate(data)]
    notes = "\n".join(compare(runs).notes)
    for doubt in (
        "tested on different data: digits, mnist",
        "the last values are of different rounds, 2 to 3",
        "quick name=digits: 1 of 1 did not do all of their rounds",
        "quick name=mnist and quick name=digits have no seed in common",
        "one seed each: there is no interval",
    ):
        assert doubt in notes


def test_the_baseline_can_be_chosen(store: Store) -> None:
    runs = [load_run(store(seeded(FINALS), ARMS))]
    found = compare(runs, baseline="FedAvgM")
    difference = found.difference(found.candidates[0])
    assert difference is not None and difference.mean == pytest.approx(-0.2)
    with pytest.raises(UserError, match=r"no 'FedAvgMN'; did you mean 'FedAvgM'\? there are FedAvg, FedAvgM"):
        compare(runs, baseline="FedAvgMN")


def test_what_cannot_be_compared(store: Store) -> None:
    scored, lossy = (
        store({"": [0.1, 0.2]}, {"x": 1}, name="scored"),
        store({"": [2.0, 1.0]}, metric="loss", name="lossy"),
    )
    empty = store({}, name="empty")
    both = [load_run(scored), load_run(lossy)]
    with pytest.raises(
        UserError, match=r"none of accuracy, loss, train_loss, relative_error was measured in all of scored, lossy"
    ):
        compare(both)
    with pytest.raises(UserError, match=r"'accuracy' was not measured in lossy; all have bytes_down"):
        compare(both, metric="accuracy")
    with pytest.raises(UserError, match=r"not measured in any of the runs; did you mean 'accuracy'\?"):
        compare(both[:1], metric="acuracy")
    assert compare(both, metric="elapsed").less
    with pytest.raises(UserError, match=re.escape(f"{empty}: no round was recorded")):
        compare([load_run(empty)])
    assert compare([load_run(empty), both[0]]).notes[0] == f"{empty}: no round was recorded; left out"
    with pytest.raises(UserError, match="no runs were given"):
        compare([])
    with pytest.raises(UserError, match="between 0 and 1"):
        compare(both[:1], confidence=1.0)
    (scored / "resolved.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"resolved\.yaml: not YAML"):
        compare([load_run(scored)])


def test_records_have_one_set_of_keys_and_are_plain(store: Store) -> None:
    run = load_run(store(seeded(FINALS), ARMS))
    records = compare([run], target=0.65).records()
    assert len({tuple(record) for record in records}) == 1
    whole = compare([run], target=0.65).as_dict()
    json.dumps(whole, allow_nan=False)
    candidates: Any = whole["candidates"]
    assert [r["rounds_to_target"] for r in candidates[1]["runs"]] == [2, 2, 2]
    assert [Path(r["folder"]).name for r in candidates[0]["runs"]] == [f"FedAvg-seed={s}" for s in range(3)]
    assert (records[1]["reached"], records[0]["reached"], records[0]["rounds_to_target"]) == (3, 0, None)
