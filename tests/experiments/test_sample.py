"""``kind: sample``: the law from YAML, the same bits after a stop, and words for what cannot be."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import fedmomentum as fm
from fedmomentum.errors import UserError
from fedmomentum.experiments import make
from fedmomentum.experiments.law import is_gaussian, limit, predicted_covariance
from fedmomentum.experiments.sample import diabetes, make_target, two_digits
from fedmomentum.samplers import targets
from fedmomentum.scenario import ScenarioError, load
from fedmomentum.scenario.sample import HmcKernel, SghmcKernel, SgldKernel

SGLD = {"name": "sgld", "step_size": 0.1}


def write(folder: Path, **changes: object) -> Path:
    scenario = {
        "kind": "sample",
        "question": "Does it sample?",
        "target": {"name": "gaussian"},
        "kernel": SGLD,
        "chains": 50,
        "warmup": 40,
        "draws": 24,
        "every": 8,
        **changes,
    }
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump(scenario))
    return path


KERNELS = {
    "sgld": {**SGLD, "gradient_noise": 4.0},
    "sghmc": {"name": "sghmc", "step_size": 0.1, "friction": 0.3, "gradient_noise": 3.0},
    "sghmc, hot": {"name": "sghmc", "step_size": 0.1, "friction": 0.3, "gradient_noise": 3.0, "correct": False},
    "baoab": {"name": "underdamped_langevin", "step_size": 0.5, "temperature": 0.5},
    "hmc": {"name": "hmc", "mass": "dense"},
    "hmc, found": {"name": "hmc", "mass": "dense", "steps": None},
}


@pytest.mark.parametrize("case", KERNELS)
def test_every_kernel_has_the_variance_that_is_predicted(tmp_path: Path, case: str) -> None:
    experiment = make(load(write(tmp_path, kernel=KERNELS[case], chains=1000, warmup=60)).scenario)
    row = list(experiment.rows())[-1]
    (claim,) = experiment.findings()
    assert claim["holds"] and claim["tolerance"] < 0.12, claim
    assert row["round"] == 24 and row["mean_error"] < 0.15
    ratio = {"sgld": 1.3, "sghmc, hot": 1.5, "baoab": 0.5}.get(case, 1.0)
    assert row["variance_ratio"] == pytest.approx(ratio, rel=0.12)


def test_the_prediction_in_one_dimension_is_the_textbooks() -> None:
    class Kernel:
        name, step_size, temperature, gradient_noise = "sgld", 0.2, 1.5, 3.0

    class Gaussian:
        name, mean, covariance = "gaussian", (0.0,), ((0.25,),)

    target, _ = make_target(Gaussian)
    found = predicted_covariance(target, Kernel)
    keep = 1 - 0.2 * 4.0  # x' = keep x + noise of variance 2 g T + g^2 V
    assert found is not None
    assert float(found) == pytest.approx((2 * 0.2 * 1.5 + 0.2**2 * 3.0) / (1 - keep**2))


@pytest.mark.parametrize("kernel", [SGLD, {"name": "hmc", "steps": 3}, {"name": "hmc", "steps": None}])
def test_a_stopped_run_goes_on_to_the_same_draws(tmp_path: Path, kernel: dict[str, object]) -> None:
    scenario = load(write(tmp_path, kernel=kernel, thin=2)).scenario
    through = make(scenario)
    whole = list(through.rows())
    first = make(scenario)
    rows = first.rows()
    next(rows)
    second = make(scenario)
    second.load_state_dict(first.state_dict())
    assert list(second.rows()) == whole[1:]
    assert torch.equal(torch.cat(through.draws), torch.cat(second.draws))
    assert [x.shape[0] for x in through.draws] == [8, 8, 8]


def test_a_run_leaves_rows_findings_a_picture_and_checkpoints(tmp_path: Path) -> None:
    path = write(tmp_path, checkpoint={"every": 8}, expect=[{"metric": "variance_ratio", "le": 2.0}])
    result = fm.run(path, out=tmp_path / "runs")
    assert result.status == "finished" and result.expectations[0].ok
    assert [row["round"] for row in result.metrics] == [8, 16, 24]
    assert (result.folder / "plots" / "draws.png").stat().st_size > 10_000
    assert list((result.folder / "checkpoints").iterdir())
    assert set(np.load(result.folder / "draws.npz")) >= {"draws", "covariance", "predicted_covariance"}


def test_the_posterior_of_linear_regression_is_that_of_scikit_learn() -> None:
    """Ridge regression is its mean; the covariance of scikit-learn's BayesianRidge at these variances is its spread."""
    linear = pytest.importorskip("sklearn.linear_model")

    class Settings:
        name, noise, prior = "linear_regression", 0.5, 2.0

    target, checksum = make_target(Settings)
    x, y = (part.numpy() for part in diabetes())
    ridge = linear.Ridge(alpha=0.5 / 2.0, fit_intercept=False).fit(x, y)
    assert target.mean is not None and len(checksum) == 64
    np.testing.assert_allclose(target.mean.numpy(), ridge.coef_, rtol=1e-6, atol=1e-9)


def test_the_features_of_two_digits() -> None:
    x, y = two_digits(3, 8, components=5)
    assert x.shape == (357, 6) and set(y.tolist()) == {0.0, 1.0}
    deviations = x[:, :5].std(0)
    assert (
        float(deviations[0]) == pytest.approx(1.0) and sorted(deviations.tolist(), reverse=True) == deviations.tolist()
    )
    correlation = torch.corrcoef(x[:, :5].T) - torch.eye(5).double()
    assert float(correlation.abs().max()) < 1e-10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": {"name": "gaussian", "mean": [0.0]}}, "1 rows of 1 numbers"),
        ({"target": {"name": "gaussian", "covariance": [[1.0, 0.5], [0.0, 1.0]]}}, "symmetric"),
        ({"kernel": {"name": "nuts", "step_size": 0.1}}, "hmc"),
        ({"draws": 2}, "draws"),
        ({"kernel": {"name": "hmc", "steps": None}, "chains": 3}, "3 chains cannot find one"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        load(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernel": {"name": "sgld", "step_size": 9.0}}, "diverges on this target; below 1.048"),
        ({"target": {"name": "gaussian", "covariance": [[1.0, 2.0], [2.0, 1.0]]}}, "positive definite"),
        ({"target": {"name": "logistic_regression", "digits": [3, 3]}}, "two different digits"),
    ],
)
def test_what_has_no_law_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        fm.run(write(tmp_path, **changes), out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["banana", "funnel"])
def test_a_law_of_gaussians_is_not_held_against_another_target(name: str) -> None:
    """Of a bent valley or a funnel only HMC is predicted, and no step size is known to be too large."""
    target = getattr(targets, name)()
    assert not is_gaussian(target) and is_gaussian(
        targets.gaussian(torch.ones(2), torch.diag(torch.tensor([1.0, 9.0])))
    )
    for kernel in (SgldKernel(name="sgld", step_size=0.1), SghmcKernel(name="sghmc", step_size=0.1)):
        assert predicted_covariance(target, kernel) is None and limit(target, kernel) == math.inf
    exact = predicted_covariance(target, HmcKernel(name="hmc"))
    assert exact is not None
    torch.testing.assert_close(exact, target.covariance)
