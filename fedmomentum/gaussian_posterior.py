"""The draws of a federated run on quadratic losses beside the Gaussian they should come from, and their law."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

from fedmomentum.runs.atomic import write_json
from fedmomentum.runs.findings import Finding
from fedmomentum.samplers.distances import gaussian_wasserstein
from fedmomentum.samplers.linear_chain import Array, Expected, Gaussian, LinearChain

MOMENTS = "posterior.json"
"""File of an arm: moments of the target, of the law of the run, and of the draws, with some of them."""
ERRORS = 4.0
"""Monte-Carlo errors by which a measurement may miss its prediction."""
ROUNDING, FLOOR = 1e-3, 1e-5
"""Errors that float32 is allowed where a prediction has no Monte-Carlo error: relative, and in posterior variances."""
FORGOTTEN = 0.05
"""Distance to the law's mean, in the posterior's deviations, below which the start counts as forgotten."""
MOST_POINTS = 400


@dataclass
class GaussianPosterior:
    """Keeps the models of the rounds after the burn-in as draws, and judges their moments.

    Args:
        target: the posterior.
        names: tensors of the model, in the order of its weights.
        burn_in: rounds at the start that give no draw.
        every: rounds between two draws.
        law: of the run; or why none is known, in words.
        sampling: whether the models are meant for draws; where not, only their mean is predicted.
    """

    target: Gaussian
    names: tuple[str, ...]
    burn_in: int
    every: int
    law: LinearChain | str
    sampling: bool = True
    draws: dict[int, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Find the inverse root of the target's covariance, the unit of every distance."""
        values, axes = linalg.eigh(self.target.covariance)
        self.whiten: Array = (axes / np.sqrt(values)) @ axes.T

    def take(self, server_round: int, model: Mapping[str, Tensor]) -> None:
        """Keep the model of a round, if it is one to keep."""
        past = server_round - self.burn_in
        if past > 0 and past % self.every == 0:
            self.draws[server_round] = self._flat(model)

    def _flat(self, model: Mapping[str, Tensor]) -> Array:
        return torch.cat([model[name].reshape(-1).double() for name in self.names]).numpy()

    def metrics(self) -> dict[str, float]:
        """Give how far the moments of the draws so far are from the posterior's, and from what was predicted.

        Keys, each with ``posterior_`` before it: ``draws``; ``mean_error``, the distance of the draws' mean to the
        posterior's, ``|W (mean - mu)| / sqrt(P)`` in posterior deviations; from the second draw on ``variance_ratio``,
        ``tr(W C W') / P``, and ``wasserstein``, the distance of the two Gaussians over the posterior's deviation. Where
        the law of the run is known ``mean_error_predicted`` and ``variance_ratio_predicted``, and how many Monte-Carlo
        errors the measurement is off, ``mean_error_z`` and ``variance_ratio_z``.
        """
        row = {"posterior_draws": float(len(self.draws))}
        if not self.draws:
            return {}
        measured = self._measured()
        row["posterior_mean_error"] = math.sqrt(measured[0])
        if len(self.draws) < 2:
            return row
        row["posterior_variance_ratio"] = measured[1]
        row["posterior_wasserstein"] = self._distance()
        predicted = self.predicted()
        if predicted is not None:
            for key, value, found in zip(("mean_error", "variance_ratio"), predicted, measured, strict=False):
                root = math.sqrt if key == "mean_error" else float
                row[f"posterior_{key}_predicted"] = root(value.value)
                row[f"posterior_{key}_z"] = (found - value.value) / _error(value)
        return row

    def _moments(self) -> Gaussian:
        points = np.stack(list(self.draws.values()))
        return Gaussian(points.mean(0), np.cov(points.T).reshape(points.shape[1], -1))

    def _measured(self) -> tuple[float, float]:
        size = len(self.target.mean)
        points = np.stack(list(self.draws.values())) @ self.whiten.T
        off = points.mean(0) - self.whiten @ self.target.mean
        spread = float(points.var(0, ddof=1).sum()) / size if len(points) > 1 else math.nan
        return float(off @ off) / size, spread

    def _distance(self) -> float:
        here, there = ([torch.from_numpy(np.array(part)) for part in law] for law in (self._moments(), self.target))
        return gaussian_wasserstein(*here, *there) / math.sqrt(float(np.trace(self.target.covariance)))

    def predicted(self) -> tuple[Expected, ...] | None:
        """Give what the squared error of the mean and the ratio of variances come to; None where no law is known.

        The first draws of a run whose burn-in is too short for it to forget its start are not of the law.
        """
        if isinstance(self.law, str) or self.remembered > FORGOTTEN:
            return None
        both = self.law.moments(len(self.draws), every=self.every, whiten=self.whiten, centre=self.target.mean)
        return both if self.sampling else both[:1]

    @cached_property
    def remembered(self) -> float:
        """How far the run's mean is from its law's after the burn-in, in posterior deviations; it starts at zero."""
        if isinstance(self.law, str):
            return math.nan
        return self.law.forgotten(np.zeros(len(self.law.drift)), self.burn_in, whiten=self.whiten)

    @property
    def unpredicted(self) -> str:
        """Why no law is held against the draws, in words; empty where one is."""
        if isinstance(self.law, str):
            return self.law
        if self.remembered > FORGOTTEN:
            return (
                f"the burn-in is too short: after {self.burn_in} rounds the mean of the chain is still "
                f"{self.remembered:.2g} posterior deviations from where it ends"
            )
        return ""

    def findings(self) -> list[Finding]:
        """Give the predictions beside the measurements."""
        predicted = self.predicted() if len(self.draws) > 1 else None
        if predicted is None:
            return []
        words = (
            "squared error of the draws' mean, in posterior variances",
            "variance of the draws over the posterior's",
        )
        return [
            _finding(claim, value, found)
            for claim, value, found in zip(words, predicted, self._measured(), strict=False)
        ]

    def save(self, folder: Path) -> None:
        """Leave what the picture needs in the arm's folder."""
        if len(self.draws) < 2:
            return
        laws = {"target": self.target, "draws": self._moments()}
        if not isinstance(self.law, str):
            laws["law"] = self.law.law
        points = np.stack(list(self.draws.values()))[:, :2]
        content: dict[str, Any] = {
            name: {"mean": of.mean[:2].tolist(), "covariance": of.covariance[:2, :2].tolist()}
            for name, of in laws.items()
        }
        content["points"] = points[:: max(1, len(points) // MOST_POINTS)].tolist()
        content["findings"] = self.findings()
        content["errors"] = [] if (found := self.predicted()) is None else [list(value) for value in found]
        content["measured"] = list(self._measured())
        write_json(folder / MOMENTS, content)

    def state_dict(self) -> dict[str, Any]:
        """Give the draws."""
        return {"draws": {str(number): torch.from_numpy(point) for number, point in self.draws.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.draws = {int(number): point.numpy() for number, point in state["draws"].items()}


def _error(of: Expected) -> float:
    """Give the error of a prediction: the Monte-Carlo one, or what rounding leaves where there is none."""
    return max(of.error, ROUNDING * of.value / ERRORS, FLOOR / ERRORS)


def _finding(claim: str, predicted: Expected, measured: float) -> Finding:
    nothing = predicted.value < FLOOR  # to rounding
    value = FLOOR if nothing else predicted.value
    allowed = 0.0 if nothing else ERRORS * _error(predicted) / value
    error = max(measured - value, 0.0) / value if nothing else abs(measured - value) / value
    return Finding(
        claim=claim,
        predicted=value,
        measured=measured,
        unit="",
        relation="at_most" if nothing else "equal",
        relative_error=error,
        tolerance=allowed,
        holds=error <= allowed,
    )
