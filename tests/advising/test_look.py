"""What advice measures of a scenario and of a run, against numbers that are known; and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import fedmomentum as fm
from fedmomentum.advising.look import look
from fedmomentum.build import build
from fedmomentum.cli import main
from fedmomentum.scenario import load
from tests.end_to_end.tiny import write

LOGISTIC = {"model": {"name": "logistic"}, "client": {"optimizer": {"name": "sgd", "lr": 0.1}, "batch_size": "all"}}


def curvature(x: np.ndarray, classes: int = 10) -> float:
    """Largest eigenvalue of the Hessian of multinomial regression at zero."""
    rows = np.hstack([x.reshape(len(x), -1), np.ones((len(x), 1))]).astype(np.float64)
    return float(np.linalg.eigvalsh(rows.T @ rows / len(x))[-1]) / classes


def test_numbers_of_a_federation_that_is_known(tmp_path: Path) -> None:
    path = write(tmp_path, **LOGISTIC, participation={"count": 4})
    scenario = load(path).arms[0].scenario
    setting, found = look(scenario, clients=12, rounds=0)
    assert (setting.clients, setting.cohort, setting.steps) == (12, 4, 1)
    assert setting.client.form == "heavy_ball" and setting.client.momentum == 0.0
    data = build(scenario).data
    sharp = [curvature(data.train_arrays(c)[0]) for c in range(12)]
    assert found.sharpest_client == pytest.approx(max(sharp), rel=1e-3)
    assert found.median_client == pytest.approx(float(np.median(sharp)), rel=1e-3)
    assert found.sharpest == pytest.approx(
        curvature(data.x[np.sort(data.partition.order)]), rel=0.03
    )  # of 1024 of 1438
    assert max(sharp) >= found.sharpest_cohort >= found.sharpest * 0.9
    assert 0 < found.flattest < found.sharpest and math.isnan(found.noise_ratio)
    # one full-batch step of each: the updates are the gradients, and of all clients their spread is known
    updates = []
    for client in range(12):
        x, y = data.train_arrays(client)
        rows = np.hstack([x.reshape(len(x), -1), np.ones((len(x), 1))])
        updates.append((rows.T @ (np.full((len(y), 10), 0.1) - np.eye(10)[y]) / len(y)).ravel())
    d = np.stack(updates)
    spread, size = ((d - d.mean(0)) ** 2).sum(1).mean(), (d.mean(0) ** 2).sum()
    assert found.sampling_ratio == pytest.approx(spread * (12 - 4) / (4 * 11) / size, rel=0.02)
    assert found.coherence == pytest.approx(size / (d**2).sum(1).mean(), rel=0.02)


def test_a_few_clients_estimate_the_spread_of_all(tmp_path: Path) -> None:
    scenario = load(write(tmp_path, **LOGISTIC, participation={"count": 4})).arms[0].scenario
    every = look(scenario, clients=12, rounds=0)[1]
    some = look(scenario, clients=10, rounds=0)[1]
    assert some.sampling_ratio == pytest.approx(every.sampling_ratio, rel=0.3)
    assert look(scenario, clients=10, rounds=0)[1] == some  # the same ones each time


def test_everyone_leaves_no_sampling_noise(tmp_path: Path) -> None:
    scenario = load(write(tmp_path, **LOGISTIC, participation={"fraction": 1.0})).arms[0].scenario
    found = look(scenario, clients=12, rounds=1)[1]
    assert found.sampling_ratio == 0.0 and found.sharpest_cohort == found.sharpest
    assert "after 1 rounds" in found.where


def test_a_scenario_that_diverges_is_looked_at_where_it_starts(tmp_path: Path) -> None:
    client = {"optimizer": {"name": "heavy_ball", "lr": 1e6}, "epochs": 3}
    found = look(load(write(tmp_path, client=client)).arms[0].scenario, rounds=3)[1]
    assert "rounds" not in found.where and found.sharpest > 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("advise")
    client = {"optimizer": {"name": "heavy_ball", "lr": 0.05}, "batch_size": 10, "epochs": 2, "probes": ["curvature"]}
    arms = {"slow": {"strategy": {"name": "fedavg"}}, "fast": {"client.optimizer.lr": 0.1}}
    return fm.run(write(folder, rounds=3, client=client, arms=arms), out=folder / "runs").folder


def test_a_run_knows_its_model_and_its_probes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", str(run), "--arm", "fast", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = fm.load_run(run).arms["fast"].clients
    assert told["findings"]["sharpest_client"] >= max(row["probe_curvature"] for row in rows) * (1 - 1e-6)
    assert "by its clients in 3 rounds" in told["findings"]["where"] and told["setting"]["client"]["lr"] == 0.1
    assert set(told["recommended"]) == {
        *("client.optimizer.lr", "client.optimizer.momentum"),
        *("strategy.server_learning_rate", "strategy.server_momentum"),
    }


def test_words_for_people(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", str(run)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in ("tiny, arm slow: measured at the saved model", "Clients", "Server", "zeta", "As an arm: advised: {"):
        assert words in text
    assert "strategy.name: fedavgm" in text  # the arm has plain averaging


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.yaml"], "nowhere"),
        (["RUN", "--arm", "other"], "there is no arm 'other'; the arms are: slow, fast"),
        (["RUN/arms/fast"], "not the folder of a whole run"),
        (["quickstart", "--set", "client.optimizer.lr=0"], "expected a number > 0"),
    ],
)
def test_what_the_command_cannot_use(
    run: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", *(a.replace("RUN", str(run)) for a in arguments)]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.out == ""


@pytest.mark.parametrize("flag", [["--margin", "2"], ["--rounds", "-1"], ["--clients", "0"]])
def test_flags_are_checked(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["advise", "quickstart", *flag])
    assert stopped.value.code == 2 and "expected" in capsys.readouterr().err
