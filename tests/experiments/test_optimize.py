"""``kind: optimize``: closed forms, torch's optimizers on the same batches, going on to the same bits, pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmomentum import api, scenario
from fedmomentum.experiments import make
from fedmomentum.experiments.functions import Function
from fedmomentum.experiments.optimize import OptimizeExperiment
from fedmomentum.interrupts import StopAfterRound
from fedmomentum.scenario.optimize import Himmelblau
from tests.experiments.test_running import StopAt

BOWL = """
kind: optimize
steps: 30
every: 7
problem: {name: quadratic, curvatures: [1.0, 4.0], start: [2.0, -1.0]}
optimizer: {name: sgd, lr: 0.1}
"""
DIGITS = """
kind: optimize
steps: 30
every: 10
problem: {name: training, data: {name: digits}, model: {name: mlp, hidden: [16]}, batch_size: 50}
optimizer: {name: nesterov, lr: 0.1, momentum: 0.9}
checkpoint: {every: 10}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def _write(text: str) -> Path:
        path = tmp_path / "s.yaml"
        path.write_text(text)
        return path

    return _write


def experiment(path: Path, *overrides: str) -> OptimizeExperiment:
    made = make(scenario.load(path, overrides).scenario)
    assert isinstance(made, OptimizeExperiment)
    return made


def test_descent_on_a_bowl_is_the_power_of_its_factors(write: Callable[[str], Path]) -> None:
    run = experiment(write(BOWL))
    rows = list(run.rows())
    assert [row["round"] for row in rows] == [0, 7, 14, 21, 28, 30]
    for row in rows:
        x = np.array([2.0, -1.0]) * np.array([0.9, 0.6]) ** row["round"]
        assert row["loss"] == pytest.approx((x[0] ** 2 + 4 * x[1] ** 2) / 2, rel=1e-12)
        assert row["distance"] == pytest.approx(np.hypot(*x), rel=1e-12)
    assert len(run.path) == 31


def test_noise_has_the_deviation_that_it_says_and_is_a_function_of_seed_and_step(write: Callable[[str], Path]) -> None:
    path = write(BOWL)
    run = experiment(path, "problem.noise=0.5")
    x = {"x": torch.zeros(2, dtype=torch.float64)}
    draws = torch.stack([run.task.gradient(x, step)["x"] for step in range(1, 2001)])
    assert float(draws.std()) == pytest.approx(0.5, rel=0.05)
    again = experiment(path, "problem.noise=0.5").task.gradient(x, 7)["x"]
    assert torch.equal(again, draws[6])
    assert not torch.equal(experiment(path, "problem.noise=0.5", "seed=1").task.gradient(x, 7)["x"], draws[6])


def test_training_is_torchs_optimizer_on_the_same_minibatches(write: Callable[[str], Path]) -> None:
    run, other = experiment(write(DIGITS)), experiment(write(DIGITS))
    list(run.rows())
    task: Any = other.task
    module = task.network.module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    seen = set()
    for step in range(1, 31):
        rows = task.rows(step)
        seen |= set(rows.tolist())
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(task.x[rows]), task.y[rows]).backward()
        optimizer.step()
    assert len(seen) > 1350  # 28 minibatches are an epoch of 1437
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(run.params[name], parameter.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", [BOWL + "checkpoint: {every: 10}\n", DIGITS])
def test_a_stopped_run_goes_on_from_its_checkpoint_to_the_same_bits(
    text: str, tmp_path: Path, write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(text)
    whole = api.run(path, overrides=["every=5"], out=tmp_path / "runs")
    stop = StopAfterRound(signals=False)
    loaded = scenario.load(path, ["every=5"])
    stopped = api.course(loaded, [StopAt(stop, "", 15)], out=tmp_path / "runs", stop=stop).go()
    assert (stopped.status, stopped.arms[""][-1]["round"]) == ("interrupted", 15)
    begun: list[int] = []
    original = OptimizeExperiment.rows
    monkeypatch.setattr(OptimizeExperiment, "rows", lambda self: (begun.append(self.step), original(self))[1])
    result = api.resume(stopped.folder)
    assert begun == [15]
    keys = result.arms[""][-1].keys() - {"seconds", "elapsed"}
    assert [{k: row[k] for k in keys} for row in result.arms[""][1:]] == [
        {k: row[k] for k in keys} for row in whole.arms[""][1:]
    ]
    assert result.folder.joinpath("path.npz").exists() == whole.folder.joinpath("path.npz").exists()


def test_rules_on_problems_give_a_picture_a_problem_and_a_film(tmp_path: Path, write: Callable[[str], Path]) -> None:
    text = "kind: optimize\nsteps: 12\nproblem: {name: ravine}\noptimizer: {name: sgd, lr: 0.01}\nanimation: gif\n"
    text += (
        "arms: {a: {}, b: {optimizer: {name: adam, lr: 0.1}}, c: {problem: {name: rosenbrock}, optimizer.lr: 1e9}}\n"
    )
    result = api.run(write(text), out=tmp_path / "runs")
    names = {path.name for path in (result.folder / "plots").iterdir()}
    assert names == {f"paths{mark}.{kind}" for mark in ("", "-2") for kind in ("png", "svg", "gif")}
    film = (result.folder / "plots" / "paths.gif").read_bytes()
    assert film[:6] == b"GIF89a" and len(film) < 2_000_000


def test_the_minima_that_are_drawn_are_minima() -> None:
    function = Function(Himmelblau(name="himmelblau"), 0)
    points = torch.tensor(function.minima, dtype=torch.float64, requires_grad=True)
    heights = function.height(points)
    (slopes,) = torch.autograd.grad(heights.sum(), points)
    assert float(heights.detach().max()) < 1e-9
    torch.testing.assert_close(function.problem.gradient(points.detach()), slopes, rtol=1e-12, atol=1e-12)
    elsewhere = torch.tensor([[0.3, -1.2], [2.0, 5.0]], dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(function.height(elsewhere).sum(), elsewhere)
    torch.testing.assert_close(function.problem.gradient(elsewhere.detach()), slopes, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("problem={name: quadratic, curvatures: [1], start: [1, 2]}", "expected 1 coordinates, not 2"),
        ("problem={name: quadratic, curvatures: [1, 2, 3], start: null}", None),
        ("problem={name: rosenbrok}", "did you mean 'rosenbrock'"),
        ("optimizer.momentum=0.9", "unknown key 'momentum'"),
        ("problem={name: training, data: {name: digits}, model: {name: lstm}}", "works on sequences"),
    ],
)
def test_what_does_not_fit_is_told(write: Callable[[str], Path], change: str, message: str | None) -> None:
    path = write(BOWL)
    if message is None:
        scenario.load(path, [change])
        with pytest.raises(scenario.ScenarioError, match="two coordinates"):
            scenario.load(path, [change, "animation=gif"])
        return
    with pytest.raises(scenario.ScenarioError, match=message):
        scenario.load(path, [change])
