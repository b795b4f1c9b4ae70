"""``kind: sample``: run chains, say how well they mix, and hold their moments against the law's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmomentum.errors import UserError
from fedmomentum.experiments.experiment import Kind
from fedmomentum.experiments.law import limit, predicted_covariance
from fedmomentum.experiments.sample_pictures import SERIES, draw
from fedmomentum.runs.atomic import write_with
from fedmomentum.runs.findings import Finding
from fedmomentum.samplers import Dense, Diagonal, Kernel, hmc, noisy, run, sghmc, sgld, underdamped_langevin
from fedmomentum.samplers.adaptation import window_adaptation
from fedmomentum.samplers.diagnostics import e_bfmi, ess, mcse, r_hat
from fedmomentum.samplers.distances import wasserstein_to_gaussian
from fedmomentum.samplers.targets import Target, banana, funnel, gaussian, linear_regression, logistic_regression
from fedmomentum.scenario.sample import SampleScenario
from fedmomentum.streams import stream

KEPT = 4000
"""Draws that are left for the picture."""
REFERENCE_CHAINS = 8


def make_target(settings: Any) -> tuple[Target, str]:
    """Give the law that a scenario names, and a checksum of its data (empty where it has none).

    Raises:
        UserError: the covariance is not positive definite.
    """
    match settings.name:
        case "gaussian":
            try:
                return gaussian(torch.tensor(settings.mean).double(), torch.tensor(settings.covariance).double()), ""
            except ValueError as error:
                raise UserError(f"target.covariance: {error}") from error
        case "banana":
            return banana(centre=settings.centre, scale=settings.scale, width=settings.width), ""
        case "funnel":
            return funnel(settings.size, scale=settings.scale), ""
        case "linear_regression":
            x, y = diabetes()
            return linear_regression(x, y, noise=settings.noise, prior=settings.prior), _checksum(x, y)
        case _:
            x, y = two_digits(*settings.digits, components=settings.components)
            return logistic_regression(x, y, prior=settings.prior), _checksum(x, y)


def diabetes() -> tuple[Tensor, Tensor]:
    """Give the diabetes data of scikit-learn, standardised: X ``[442, 10]`` and y ``[442]``."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return _standard(torch.from_numpy(x)), _standard(torch.from_numpy(y))


def two_digits(negative: int, positive: int, *, components: int) -> tuple[Tensor, Tensor]:
    """Give two of scikit-learn's digits: principal components and a constant ``[N, P + 1]``, and 0 or 1 ``[N]``.

    Raises:
        UserError: the two are the same.
    """
    from sklearn.datasets import load_digits

    if negative == positive:
        raise UserError(f"target.digits: expected two different digits, not {negative} twice")
    x, y = load_digits(return_X_y=True)
    chosen = np.isin(y, (negative, positive))
    pixels = torch.from_numpy(x[chosen])
    pixels = pixels - pixels.mean(0)
    _, _, axes = torch.linalg.svd(pixels, full_matrices=False)
    scores = pixels @ axes[:components].T
    scores = scores / scores[:, :1].std()  # one scale for all: later components say less
    return torch.cat([scores, torch.ones(len(scores), 1).double()], 1), torch.from_numpy(y[chosen] == positive).double()


def _standard(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.std(0)


def _checksum(x: Tensor, y: Tensor) -> str:
    import hashlib

    # six digits: a decomposition may differ in its last bits from machine to machine
    return hashlib.sha256(x.numpy().round(6).tobytes() + y.numpy().round(6).tobytes()).hexdigest()


class SampleExperiment:
    """The chains of one arm."""

    def __init__(self, scenario: SampleScenario) -> None:
        """Take the scenario.

        Raises:
            UserError: the target cannot be made, or the step size has no stationary law on it.
        """
        torch.set_num_threads(1)  # bits depend on it
        self.scenario, self.steps = scenario, scenario.draws
        self.target, self.checksum = make_target(scenario.target)
        most = limit(self.target, scenario.kernel)
        if scenario.kernel.step_size is not None and scenario.kernel.step_size >= most:
            raise UserError(
                f"kernel.step_size: {scenario.kernel.step_size:g} diverges on this target; below {most:.4g}"
            )
        self.draws: list[Tensor] = []
        self.acceptance: list[Tensor] = []
        self.energy: list[Tensor] = []
        self.heat: list[Tensor] = []
        self._state: dict[str, Any] | None = None
        self._warm: dict[str, Tensor] = {}
        self._reference: tuple[Tensor, Tensor] | None = None

    def facts(self) -> Mapping[str, object]:
        """Say what is sampled by what."""
        s = self.scenario
        facts = {"target": s.target.name, "kernel": s.kernel.name, "dimension": self.target.size, "chains": s.chains}
        return facts | ({"data": s.target.name, "data_checksum": self.checksum} if self.checksum else {})

    def reference(self) -> tuple[Tensor, Tensor]:
        """Give the mean and the covariance of the law: in closed form, or those of a long HMC run of its own."""
        if self.target.mean is not None and self.target.covariance is not None:
            return self.target.mean, self.target.covariance
        if self._reference is None:
            start = {"x": self._start(REFERENCE_CHAINS, "reference")}
            seed = self.scenario.seed + 1
            warm = window_adaptation(self.target.field, start, seed=seed, warmup=600, mass="dense")
            long = run(warm.kernel, warm.position, max(self.scenario.reference, 100), seed=seed).samples["x"]
            flat = long.flatten(0, 1)
            self._reference = flat.mean(0), torch.cov(flat.T)
        return self._reference

    def rows(self) -> Iterator[Mapping[str, float]]:
        """Warm the chains up, then draw, and give a row every so many draws."""
        s = self.scenario
        torch.set_num_threads(1)
        kernel, position = self._ready()
        done = sum(len(x) for x in self.draws)
        while done < s.draws:
            number = min(s.every, s.draws - done)
            # thinning counts from the start of the run, so a resumed run keeps the same draws
            options: dict[str, Any] = {"thin": s.thin, "burn_in": 0 if self._exact else s.warmup}
            ahead = number * s.thin + (0 if self._exact or self._state is not None else s.warmup)
            if self._state is None:
                found = run(kernel, position, ahead, seed=s.seed, **options)
            else:
                found = run(kernel, None, ahead, resume=self._state, **options)
            self._state = found.state_dict()
            self._take(found.samples["x"], found.info)
            done += number
            yield {"round": done, **self._metrics()}

    @property
    def _exact(self) -> bool:
        return self.scenario.kernel.name == "hmc"

    def _start(self, chains: int, name: str) -> Tensor:
        x = torch.from_numpy(stream(self.scenario.seed, name).standard_normal((chains, self.target.size)))
        return self.scenario.spread * x + (0.0 if self.target.mean is None else self.target.mean)

    def _ready(self) -> tuple[Kernel, Any]:
        """Give the kernel, warmed up where it has a warm-up, and where the chains begin."""
        s, target = self.scenario, self.target
        start = {"x": self._start(s.chains, "start")}
        k: Any = s.kernel
        if k.name == "hmc":
            if not self._warm:
                warm = window_adaptation(
                    target.field, start, seed=s.seed, warmup=s.warmup, steps=k.steps, mass=k.mass,
                    target=k.target_acceptance,
                )  # fmt: skip
                size = warm.step_size if k.step_size is None else torch.full_like(warm.step_size, k.step_size)
                inverse: Tensor = warm.metric.inverse_mass  # type: ignore[attr-defined]
                found = torch.tensor(warm.steps)
                self._warm = {
                    "step_size": size, "inverse_mass": inverse, "position": warm.position["x"], "steps": found
                }  # fmt: skip
            inverse = self._warm["inverse_mass"]
            metric = Dense(inverse) if inverse.ndim == 2 else Diagonal(inverse)
            kernel = hmc(
                target.field, step_size=self._warm["step_size"], steps=int(self._warm["steps"]), metric=metric,
                random_steps=k.random_steps or k.steps is None,
            )  # fmt: skip
            return kernel, {"x": self._warm["position"]}
        options: dict[str, Any] = {"step_size": k.step_size, "temperature": k.temperature}
        if k.gradient_noise:
            options["estimate"] = noisy(target.gradient, k.gradient_noise)
        else:
            options["gradient"] = target.gradient
        if k.name == "sghmc":
            return sghmc(friction=k.friction, noise_variance=k.gradient_noise if k.correct else 0.0, **options), start
        if k.name == "underdamped_langevin":
            return underdamped_langevin(friction=k.friction, **options), start
        return sgld(**options), start

    def _take(self, x: Tensor, info: Mapping[str, Tensor]) -> None:
        self.draws.append(x)
        for name, column in (
            ("acceptance", self.acceptance),
            ("energy", self.energy),
            ("kinetic_temperature", self.heat),
        ):
            if name in info:
                column.append(info[name].double())

    def _metrics(self) -> dict[str, float]:
        x = torch.cat(self.draws)
        mean, covariance = self.reference()
        flat = x.flatten(0, 1)
        spread = covariance.diagonal().sqrt()
        measured = torch.cov(flat.T).reshape(covariance.shape)
        row = {
            "draws": float(len(x)),
            "mean_error": float(((flat.mean(0) - mean) / spread).abs().max()),
            "variance_ratio": float(torch.trace(measured) / torch.trace(covariance)),
            "wasserstein": wasserstein_to_gaussian(flat, mean, covariance) / float(torch.trace(covariance)) ** 0.5,
        }
        if len(x) >= 8:
            row["r_hat"] = float(r_hat(x).max())
            row["ess_bulk"] = float(ess(x, kind="bulk").min())
            row["ess_tail"] = float(ess(x, kind="tail").min())
        if self.acceptance:
            row["acceptance"] = float(torch.cat(self.acceptance).mean())
        if self.energy and len(x) >= 8:
            energy = torch.cat(self.energy)
            row["energy"], row["e_bfmi"] = float(energy.mean()), float(e_bfmi(energy).min())
        if self.heat and not bool(torch.cat(self.heat).isnan().any()):
            row["kinetic_temperature"] = float(torch.cat(self.heat).mean())
        if self._warm:
            row["step_size"] = float(self._warm["step_size"].mean())
            row["steps"] = float(self._warm["steps"])
        return row

    def findings(self) -> Sequence[Finding]:
        """Hold mean and variance of the draws against the law of the sampler, each within its Monte Carlo error."""
        x = torch.cat(self.draws)
        predicted = predicted_covariance(self.target, self.scenario.kernel)
        if predicted is None or self.target.mean is None or self.target.covariance is None:
            return []
        covariance = self.target.covariance
        away = (x - self.target.mean).square().sum(-1)
        total, wanted = float(away.mean()), float(torch.trace(predicted))
        allowed = 4.5 * float(mcse(away)) / wanted
        scale = float(torch.trace(covariance))
        error = abs(total - wanted) / wanted
        return [
            Finding(
                claim=f"total variance of {self.scenario.kernel.name}, over that of the target",
                predicted=wanted / scale,
                measured=total / scale,
                unit="",
                relation="equal",
                relative_error=error,
                tolerance=allowed,
                holds=error <= allowed,
            )
        ]

    def save(self, folder: Path) -> None:
        """Leave draws, moments and traces for the picture."""
        x = torch.cat(self.draws)
        mean, covariance = self.reference()
        predicted = predicted_covariance(self.target, self.scenario.kernel)
        flat = x.flatten(0, 1)
        stride = max(1, len(flat) // KEPT)
        arrays = {
            "draws": flat[::stride].numpy(),
            "mean": flat.mean(0).numpy(),
            "covariance": torch.cov(flat.T).reshape(covariance.shape).numpy(),
            "reference_mean": mean.numpy(),
            "reference_covariance": covariance.numpy(),
            "trace": x[:, : min(4, x.shape[1]), 0].numpy(),
        }
        if predicted is not None:
            arrays["predicted_covariance"] = predicted.numpy()
        write_with(folder / SERIES, lambda path: _savez(path, arrays))

    def state_dict(self) -> dict[str, Any]:
        """Give the chains and their draws so far."""
        return {
            "chains": self._state,
            "warm": self._warm,
            "draws": self.draws,
            "acceptance": self.acceptance,
            "energy": self.energy,
            "heat": self.heat,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._state, self._warm = dict(state["chains"]), dict(state["warm"])
        self.draws, self.acceptance = list(state["draws"]), list(state["acceptance"])
        self.energy, self.heat = list(state["energy"]), list(state["heat"])


def _savez(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


KIND = Kind(SampleExperiment, draw)
