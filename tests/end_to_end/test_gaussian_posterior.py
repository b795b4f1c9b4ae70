"""Federated samplers from YAML on quadratic losses: through the engine, each has the posterior that its law says."""

from __future__ import annotations

import json

import pytest

import fedmomentum as fm
from fedmomentum import api, scenario
from fedmomentum.errors import UserError
from tests.end_to_end.tiny import write

SGD = {"name": "sgd", "lr": 0.1}
HERE = {
    "data": {"name": "least_squares", "dim": 3, "clients": 6, "spread": 0.3},
    "model": {"name": "linear"},
    "client": {"optimizer": SGD, "steps": 1, "batch_size": "all"},
    "participation": {"name": "uniform", "fraction": 1.0},
}


def settings(strategy, *, rounds=220, burn_in=100, **changes):
    evaluate = {"every": 1000, "posterior": {"burn_in": burn_in}}  # tested once, after the last round
    return {**HERE, "rounds": rounds, "strategy": strategy, "evaluate": evaluate, **changes}


def run(folder, strategy, **changes):
    loaded = scenario.load(write(folder, **settings(strategy, **changes)))
    return api.course(loaded, out=folder / "runs", pictures=False).go()


LONG = {"client": {"optimizer": SGD, "steps": 3, "batch_size": "all"}}
DIAGONAL = {"data": HERE["data"] | {"correlated": False}}


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ({"name": "fedavgm", "server_momentum": 0.5}, {**LONG, "rounds": 110}),
        ({"name": "fald", "correlation": 0.6}, LONG),
        ({"name": "fsgld"}, {**LONG, **DIAGONAL}),
        ({"name": "fsgld", "conducive": False}, LONG),
        ({"name": "dglmc", "tolerance": 0.02}, LONG),
        ({"name": "qlsd", "keep": 0.7}, {}),
        ({"name": "qlsd", "keep": 0.7, "star": True}, {}),
        ({"name": "fedsghmc", "friction": 0.3}, {}),
    ],
    ids=lambda of: "-".join(str(v) for v in of.values()) if "name" in of else "",
)
def test_draws_have_the_moments_of_the_law(tmp_path, strategy, changes):
    """Mean and variance within four Monte-Carlo errors, which the law itself gives."""
    result = run(tmp_path, strategy, **changes)
    row, found = result.arms[""][-1], result.findings[""]
    assert len(found) == (1 if strategy["name"] == "fedavgm" else 2) and not result.warnings
    assert all(finding["holds"] for finding in found), [(f["predicted"], f["measured"], f["tolerance"]) for f in found]
    assert row["posterior_mean_error"] ** 2 == pytest.approx(found[0]["measured"])
    if strategy["name"] == "fedavgm":  # no noise: its fixed point is known to rounding, and is far from the mode
        assert found[0]["relative_error"] < 1e-4 and row["posterior_mean_error"] > 0.5


def test_draws_survive_a_stop_and_are_drawn(tmp_path):
    checkpoints = {"checkpoint": {"every": 20}, **LONG}
    whole = fm.run(
        write(tmp_path, **settings({"name": "fald"}, rounds=90, burn_in=30, **checkpoints)), out=tmp_path / "a"
    )
    short = write(tmp_path, **settings({"name": "fald"}, rounds=60, burn_in=30, **checkpoints))
    went_on = fm.resume(fm.run(short, out=tmp_path / "b").folder, overrides=["rounds=90"])
    ours, theirs = ({k: v for k, v in r.arms[""][-1].items() if "posterior" in k} for r in (whole, went_on))
    assert ours == theirs and ours["posterior_draws"] == 60
    assert (whole.folder / "plots" / "posterior.png").stat().st_size > 10_000
    content = json.loads((whole.folder / "posterior.json").read_text())
    assert len(content["points"]) == 60 and content["findings"] == whole.findings[""]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"client": {"optimizer": SGD, "steps": 1, "batch_size": 10}}, "gradients are of minibatches"),
        ({"participation": {"name": "uniform", "fraction": 0.5}}, "few clients take part"),
        ({"client": {"optimizer": SGD | {"lr": 5.0}, "steps": 1, "batch_size": "all"}}, "spectral radius"),
        ({"participation": {"name": "uniform", "fraction": 1.0, "dropout": 0.1}}, "participation.dropout"),
        ({"strategy": {"name": "qlsd", "star": True, "refresh": 3}}, "no law of 'qlsd'"),
        ({"strategy": {"name": "fedadam"}}, "no law of 'fedadam'"),
        ({}, "the burn-in is too short"),
    ],
)
def test_where_no_law_is_known_the_reason_is_told_and_the_posterior_is_there(tmp_path, changes, reason):
    result = run(tmp_path, changes.pop("strategy", {"name": "fald"}), **{"rounds": 4, "burn_in": 1, **changes})
    assert any(reason in warning for warning in result.warnings), result.warnings
    row = result.arms[""][-1]
    assert row["posterior_mean_error"] > 0 and row["posterior_wasserstein"] > 0
    assert "posterior_mean_error_predicted" not in row and not any(result.findings.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "mlp", "hidden": [3]}}, "known for model 'linear'"),
        ({"model": {"name": "logistic"}}, "'logistic' predicts classes, and data 'least_squares' has numbers"),
        ({"evaluate": {"calibration": True}}, "is of classes"),
        ({"data": HERE["data"] | {"examples_per_client": 3, "clients": 2, "dim": 7}}, "do not fix every weight"),
    ],
)
def test_what_has_no_posterior_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, {"name": "fald"}, **{"rounds": 4, "burn_in": 1, **changes})
