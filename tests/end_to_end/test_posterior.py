"""Draws on the server from YAML: metrics, a picture, and the same draws after a stop."""

from __future__ import annotations

import json

import pytest

import fedmomentum as fm
from fedmomentum.errors import UserError
from tests.end_to_end.tiny import write

SAMPLES = {
    "strategy": {"name": "fald"},
    "client": {"optimizer": {"name": "sgd", "lr": 0.05}, "steps": 4},
    "checkpoint": {"every": 1},
}
POSTERIOR = {"evaluate": {"every": 2, "posterior": {"burn_in": 2, "every": 1, "keep": 3}, "ood": "fashion_mnist"}}
NO_IMAGES = {"evaluate": {"every": 2, "posterior": {"burn_in": 2, "every": 1, "keep": 3}}}


def timeless(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "elapsed")} for row in rows]


def test_draws_are_judged_and_survive_a_stop(tmp_path):
    whole = fm.run(write(tmp_path, rounds=8, **SAMPLES, **NO_IMAGES), out=tmp_path / "whole")
    rows = whole.arms[""]
    assert "posterior_nll" not in rows[1] and rows[-1]["posterior_draws"] == 3  # rounds 4, 6, 8: every other one
    last = rows[-1]
    assert 0 <= last["posterior_accuracy"] <= 1 and 0 <= last["posterior_ece"] <= 1 and last["posterior_nll"] > 0
    assert last["posterior_entropy"] > 0 and 0 <= last["ece"] <= 1
    assert last["posterior_gain"] == pytest.approx(last["loss"] - last["posterior_nll"], abs=1e-5)
    tables = json.loads((whole.folder / "reliability.json").read_text())
    assert sum(tables["posterior"]["number"]) == 359 and set(tables) == {"model", "posterior"}
    assert (whole.folder / "plots" / "reliability.png").stat().st_size > 5000
    short = fm.run(write(tmp_path, rounds=5, **SAMPLES, **NO_IMAGES), out=tmp_path / "runs")
    went_on = fm.resume(short.folder, overrides=["rounds=8"])
    assert timeless(went_on.arms[""])[-1] == timeless(rows)[-1]


def test_the_average_of_one_model_is_the_model(tmp_path):
    """Draws of a chain that stands still: the posterior predictive is the point estimate."""
    still = {"client": {"optimizer": {"name": "sgd", "lr": 1e-30}, "steps": 1}, "strategy": {"name": "fedavg"}}
    rows = fm.run(write(tmp_path, rounds=4, **still, **NO_IMAGES), out=tmp_path / "runs").arms[""]
    for ours, theirs in (("accuracy", "accuracy"), ("nll", "loss"), ("ece", "ece"), ("entropy", "entropy")):
        assert rows[-1][f"posterior_{ours}"] == pytest.approx(rows[-1][theirs], rel=1e-5, abs=1e-7)


def test_images_of_another_kind_have_an_entropy(tmp_path):
    pytest.importorskip("fedmomentum.data.fashion_mnist")
    try:
        rows = fm.run(write(tmp_path, rounds=4, **SAMPLES, **POSTERIOR), out=tmp_path / "runs").arms[""]
    except UserError as error:
        pytest.skip(str(error))
    assert rows[-1]["posterior_ood_entropy"] > 0 and rows[-1]["ood_entropy"] > 0
    for of in ("", "posterior_"):
        row = rows[-1]
        assert row[f"{of}ood_gap"] == pytest.approx(row[f"{of}ood_entropy"] - row[f"{of}entropy"])


def test_what_has_no_labels_has_no_calibration(tmp_path):
    with pytest.raises(UserError, match="calibration: true or a posterior"):
        fm.run(write(tmp_path, evaluate={"ood": "digits"}), out=tmp_path / "runs")
