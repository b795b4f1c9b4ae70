"""Scenarios as a user runs them, from Python."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import fedmomentum as fm
from fedmomentum.api import course
from fedmomentum.errors import UserError
from fedmomentum.scenario import load, shipped
from tests.end_to_end.tiny import same_models, write


def test_a_run_leaves_a_folder_that_a_person_can_use(tmp_path):
    result = fm.run(write(tmp_path), out=tmp_path / "runs")
    assert result.status == "finished"
    table = pd.DataFrame(result.metrics)
    assert list(table["round"]) == [0, 1, 2, 3, 4]
    assert table.accuracy.between(0, 1).all() and table.train_loss.iloc[-1] < table.train_loss.iloc[1]
    names = {p.relative_to(result.folder).as_posix() for p in result.folder.rglob("*") if p.is_file()}
    assert {
        *("scenario.yaml", "resolved.yaml", "provenance.json", "status.json", "partition.json"),
        *("metrics.jsonl", "clients.jsonl", "model.safetensors", "plots/accuracy.svg", "plots/accuracy.png"),
        *("plots/partition.svg", "plots/partition.png"),
    } <= names
    assert yaml.safe_load((result.folder / "scenario.yaml").read_text())["rounds"] == 4
    provenance = json.loads((result.folder / "provenance.json").read_text())
    assert len(provenance["data"]["digits"]) == 64 and provenance["versions"]["torch"]
    facts = json.loads((result.folder / "status.json").read_text())["facts"]
    assert facts["vectorize"] == "stacked" and "dense" in facts["vectorize_reason"]


def test_a_saved_model_loads_into_plain_torch_and_is_as_good_as_was_said(tmp_path):
    from safetensors.torch import load_file

    from fedmomentum.data import load
    from fedmomentum.models import build

    result = fm.run(write(tmp_path), out=tmp_path / "runs")
    model = build("mlp", input_shape=(1, 8, 8), classes=10, seed=9, hidden=[16])
    model.load_state_dict(load_file(result.folder / "model.safetensors"))
    data = load("digits", seed=0)
    with torch.no_grad():
        right = (model(torch.from_numpy(data.test_x)).argmax(1).numpy() == data.test_y).mean()
    assert right == pytest.approx(result.metrics[-1]["accuracy"])


def test_a_seed_fixes_everything_and_another_seed_changes_it(tmp_path):
    path = write(tmp_path)
    first, second, other = (fm.run(path, out=tmp_path / "runs", overrides=o) for o in ([], [], ["seed=1"]))
    assert same_models(first.folder, second.folder)
    assert not same_models(first.folder, other.folder)
    clocks = {"seconds", "elapsed"}
    strip = lambda rows: [{k: v for k, v in row.items() if k not in clocks} for row in rows]  # noqa: E731
    assert strip(first.metrics) == strip(second.metrics)


def test_arms_share_data_and_differ_in_what_they_say(tmp_path):
    arms = {"FedAvg": {"strategy": {"name": "fedavg"}}, "FedAvgM": {}}
    result = fm.run(write(tmp_path, arms=arms), out=tmp_path / "runs")
    assert list(result.arms) == ["FedAvg", "FedAvgM"]
    single = fm.run(write(tmp_path), out=tmp_path / "runs")
    assert same_models(result.folder / "arms/FedAvgM", single.folder)
    run = fm.load_run(result.folder)
    assert {row["arm"] for row in run.metrics} == {"FedAvg", "FedAvgM"}


def test_where_examples_lie_changes_no_bit_of_a_run(tmp_path, monkeypatch):
    data = {"name": "digits", "validation": 0.2, "partition": {"name": "dirichlet", "clients": 12, "alpha": 0.3}}
    path = write(tmp_path, data=data, evaluate={"clients": 1.0})
    arranged = fm.run(path, out=tmp_path / "runs")
    monkeypatch.setattr("fedmomentum.build.arrange", lambda data: data)
    monkeypatch.setattr("fedmomentum.data.arrange", lambda data: data)
    as_they_lie = fm.run(path, out=tmp_path / "runs")
    assert same_models(arranged.folder, as_they_lie.folder)
    clocks = {"seconds", "elapsed"}
    for one, other in zip(arranged.metrics, as_they_lie.metrics, strict=True):
        assert {k: v for k, v in one.items() if k not in clocks} == {k: v for k, v in other.items() if k not in clocks}
    one, other = ((run.folder / "partition.json").read_text() for run in (arranged, as_they_lie))
    assert one == other


def test_data_are_held_once_where_arms_split_them_alike(tmp_path):
    def prepared(**arms):
        made = course(load(write(tmp_path, arms=arms)))
        made.prepare()
        return made.datasets, [federation.data for federation in made.federations.values()]

    datasets, (first, second) = prepared(FedAvg={"strategy": {"name": "fedavg"}}, FedAvgM={})
    assert not datasets and first is second and first.arranged
    datasets, (first, second) = prepared(Even={"data.partition.alpha": 100}, Uneven={})
    assert datasets and first.x is second.x and not (first.arranged or second.arranged)


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"name": "digits", "partition": {"name": "shards", "clients": 12}}},
        {"data": {"name": "digits", "partition": {"name": "quantity", "clients": 12, "sigma": 1.0}}},
        {"data": {"name": "digits", "partition": {"name": "dirichlet_per_class", "clients": 12, "alpha": 0.5}}},
        {
            "data": {
                "name": "digits",
                "partition": {"name": "iid", "clients": 12},
                "shift": {"rotation": 30, "noise": 0.1, "gain": 0.2},
            }
        },
        {
            "data": {"name": "synthetic", "clients": 10, "size_max": 60, "partition": {"name": "natural"}},
            "model": {"name": "logistic"},
        },
        {
            "data": {"name": "digits", "validation": 0.2, "partition": {"name": "iid", "clients": 12}},
            "evaluate": {"clients": 0.5},
        },
        {"participation": {"name": "bernoulli", "probability": 0.3, "dropout": 0.2}},
        {
            "participation": {
                "name": "weighted",
                "count": 3,
                "availability": {"name": "cyclic", "period": 4, "window": 2},
            }
        },
        {
            "participation": {
                "name": "uniform",
                "count": 6,
                "stragglers": {"sigma": 1.0, "deadline": 1.0, "late": "partial"},
            }
        },
        {
            "client": {
                "optimizer": {"name": "adam", "lr": 0.01, "betas": [0.8, 0.99]},
                "steps": 3,
                "state": "keep",
                "clip_norm": 1.0,
            }
        },
        {
            "client": {
                "optimizer": {"name": "lion", "lr": 0.001},
                "batch_size": "all",
                "lr_schedule": {"name": "cosine", "warmup": 1},
            }
        },
        {"strategy": {"name": "fedadam", "eta": 0.01, "convention": "keras"}},
        {"strategy": {"name": "fedopt", "rule": {"name": "rmsprop", "lr": 0.01}}},
        {"strategy": {"name": "flwr.serverapp.strategy:FedMedian"}},
        {"model": {"name": "cnn_small", "padding": 1}},
        {"model": {"name": "resnet", "depth": 8, "width": 4, "norm": "batch"}},
        {"model": {"name": "tests.clients.noisy:dropout_network"}},
    ],
    ids=lambda change: json.dumps(change)[:60],
)
def test_every_part_of_the_schema_runs(tmp_path, change):
    change.get("data", {}).pop("size_max", None)
    result = fm.run(write(tmp_path, rounds=2, **change), out=tmp_path / "runs")
    assert result.status == "finished"
    assert all(np.isfinite(row["loss"]) for row in result.metrics)


@pytest.mark.parametrize("name", [name for name in sorted(shipped()) if load(name).scenario.kind == "federated"])
def test_shipped_scenarios_run(tmp_path, name):
    small = ["rounds=1", "engine.name=inline", "expect=[]"]
    if "fashion" in shipped()[name].read_text():
        from fedmomentum.data import load as load_data

        try:
            load_data("fashion_mnist", train_size=10, test_size=10)
        except UserError:
            pytest.skip("Fashion-MNIST is not on this machine")
        small += ["data.train_size=400", "data.test_size=100"]
    result = fm.run(name, overrides=small, out=tmp_path / "runs")
    assert result.status == "finished"


def test_what_is_wrong_shows_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"scenario\.yaml:\d+:\d+: model\.name"):
        fm.run(write(tmp_path, model={"name": "mpl"}), out=tmp_path / "runs")
    with pytest.raises(UserError, match="5000 clients"):
        fm.run(
            write(tmp_path, data={"name": "digits", "partition": {"name": "iid", "clients": 5000}}),
            out=tmp_path / "runs",
        )
    with pytest.raises(UserError, match="no_such_module"):
        fm.run(write(tmp_path, model={"name": "no_such_module:net"}), out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_flowers_own_fedavg_has_the_cohorts_of_the_scenario_and_so_ours_model(tmp_path):
    """The same cohorts and clients, and sums in the model's own type, so the same model."""
    ours = {"name": "fedavgm", "server_momentum": 0.9, "accumulation": "native"}
    theirs = {"name": "flwr.serverapp.strategy:FedAvgM", "options": {"server_momentum": 0.9}}
    arms = {"ours": {"strategy": ours, "engine.block_size": 1}, "theirs": {"strategy": theirs, "engine.block_size": 1}}
    result = fm.run(write(tmp_path, arms=arms), out=tmp_path / "runs")
    assert result.warnings == []
    losses = [[row["loss"] for row in result.arms[arm]] for arm in arms]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    assert all(row["cohort"] == 6 for row in result.arms["theirs"][1:])


def test_privacy_is_reported_and_needs_a_model_whose_statistics_stand_still(tmp_path):
    noisy = {"name": "fedavg", "privacy": {"clip": 0.1, "noise_multiplier": 1.0}}
    coins = {"name": "bernoulli", "probability": 0.02}
    result = fm.run(write(tmp_path, strategy=noisy, participation=coins), out=tmp_path / "runs")
    spent = [row["epsilon"] for row in result.metrics if "epsilon" in row]
    assert len(spent) == 4 and spent == sorted(spent)
    assert any(row["cohort"] == 0 for row in result.metrics[1:])  # noise alone
    norm = {"name": "resnet", "depth": 8, "width": 4, "norm": "batch"}
    with pytest.raises(UserError, match="statistics of batch norm"):
        fm.run(write(tmp_path, strategy=noisy, participation=coins, model=norm), out=tmp_path / "runs")


def test_a_trace_says_who_is_missing_when(tmp_path):
    trace = tmp_path / "trace.csv"
    everybody = {"name": "uniform", "fraction": 1.0, "dropout": {"trace": str(trace)}}
    path = write(tmp_path, participation=everybody)
    trace.write_text("round,client\n2,3\n2,7\n4,0\n")
    result = fm.run(path, out=tmp_path / "runs")
    assert [row["failures"] for row in result.metrics[1:]] == [0, 2, 0, 1]
    gone = [json.loads(line) for line in (result.folder / "failures.jsonl").read_text().splitlines()]
    assert {(row["round"], row["client"], row["kind"]) for row in gone} == {
        *((2, 3, "dropout"), (2, 7, "dropout")),
        (4, 0, "dropout"),
    }
    for text, words in (
        ("client,round\n", r"trace\.csv:1: a dropout trace begins"),
        ("round,client\n1,x\n", r"trace\.csv:2: expected two whole numbers"),
        ("round,client\n1,0\n1,12\n", r"trace\.csv:3: .* clients from 0 to 11"),
    ):
        trace.write_text(text)
        with pytest.raises(UserError, match=words):
            fm.run(path, out=tmp_path / "runs")


def test_a_missed_quorum_stops_the_run_where_that_is_asked(tmp_path):
    strategy = {"name": "fedavgm", "quorum": 6, "on_missed_quorum": "stop"}
    participation = {"name": "uniform", "count": 6, "dropout": 0.5}
    result = fm.run(write(tmp_path, strategy=strategy, participation=participation), out=tmp_path / "runs")
    assert result.status == "failed"
    assert "replies are good, 6 are needed" in result.warnings[0]
