"""A scenario with probes, from the file to the picture and the report."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

import fedmomentum as fm
from fedmomentum.build import build
from fedmomentum.errors import UserError
from fedmomentum.report.page import write_report
from fedmomentum.scenario import load

from .tiny import same_models, write

CLIENT = {"optimizer": {"name": "heavy_ball", "lr": 0.05}, "batch_size": 10, "epochs": 2}
PROBES = ["curvature", "damping", "stability", "noise", "irreversibility", "drift"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes")
    client = {**CLIENT, "probes": PROBES, "probe_every": 2}
    arms = {"fixed": {}, "critical": {"client.optimizer.momentum": "critical"}}
    return fm.run(write(folder, rounds=3, client=client, arms=arms), out=folder / "runs")


def test_columns_of_the_tables(run):
    rows = [json.loads(line) for line in (run.folder / "arms/critical/metrics.jsonl").read_text().splitlines()]
    clients = [json.loads(line) for line in (run.folder / "arms/critical/clients.jsonl").read_text().splitlines()]
    measured = [name for name in rows[1] if name.startswith("probe_")]
    assert {"probe_curvature", "probe_damping", "probe_stability", "probe_noise", "probe_drift"} <= {*measured}
    assert "probe_curvature" not in rows[2] and "probe_curvature" in rows[3]
    assert {"probe_curvature", "momentum"} <= clients[0].keys()
    momenta = {row["momentum"] for row in clients if row["round"] == 1}
    assert len(momenta) > 1 and all(0 <= momentum < 1 for momentum in momenta)
    assert all(abs(row["probe_damping"] - 1) < 1e-6 for row in clients if row.get("probe_damping") is not None)


def test_the_picture_and_the_report(run, tmp_path):
    words = " ".join(ET.parse(run.folder / "plots/probes.svg").getroot().itertext())
    assert (run.folder / "plots/probes.png").stat().st_size > 10_000
    for title in ("Curvature, sharpest direction", "Damping ratio", "critical", "Momentum that clients took", "fixed"):
        assert title in words
    write_report([fm.load_run(run.folder)], tmp_path / "report.html", plots=False)
    html = (tmp_path / "report.html").read_text()
    assert 'id="probes"' in html and "Damping ratio" in html


def test_training_is_the_same_without_them(run, tmp_path):
    plain = fm.run(write(tmp_path, rounds=3, client=CLIENT), out=tmp_path)
    assert same_models(plain.folder, run.folder / "arms/fixed")
    assert not (plain.folder / "plots/probes.svg").exists()


def test_batch_norm_needs_a_model_that_has_it(tmp_path):
    loaded = load(write(tmp_path, client={**CLIENT, "probes": ["batch_norm"]}))
    with pytest.raises(UserError, match=r"client\.probes: batch_norm: the model 'mlp' has no batch norm"):
        build(loaded.scenario)
