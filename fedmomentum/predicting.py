"""The posterior predictive on the server: draws that are kept, their averaged probabilities, and their worth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fedmomentum.clients.network import Network
from fedmomentum.data import Dataset, FederatedData, load
from fedmomentum.errors import UserError
from fedmomentum.runs.atomic import write_json
from fedmomentum.samplers.predictive import (
    Schedule,
    calibration_error,
    entropy,
    negative_log_likelihood,
    reliability,
)
from fedmomentum.trees import Tree

if TYPE_CHECKING:
    from fedmomentum.scenario import FederatedScenario

RELIABILITY = "reliability.json"
"""File of an arm: accuracy against confidence of the last model, and of the averaged draws."""


class Predicting:
    """Judges models and averages of models by their probabilities on the test set, and on data of another kind.

    Args:
        network: into which models are loaded.
        x: inputs of the test set.
        y: its labels ``[n]``.
        unlike: inputs that are of none of the classes; None for none.
        schedule: which models are draws to keep; None keeps none.
        batch_size: examples at a time.

    Raises:
        UserError: an example has no single label.
    """

    def __init__(
        self,
        network: Network,
        x: Tensor,
        y: Tensor,
        *,
        unlike: Tensor | None = None,
        schedule: Schedule | None = None,
        batch_size: int = 512,
    ) -> None:
        """Begin without draws."""
        if y.ndim != 1:
            raise UserError("evaluate.calibration: an example of this data set has no single label; leave it out")
        self.network, self.x, self.y, self.unlike = network, x, y, unlike
        self.schedule, self.batch_size = schedule, batch_size
        self.draws: dict[int, Tree] = {}
        self._known: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._bins: dict[str, Any] = {}

    def take(self, server_round: int, model: Mapping[str, Tensor]) -> None:
        """Keep the model of a round, if it is one to keep."""
        if self.schedule is None or not self.schedule.due(server_round):
            return
        self.draws[server_round] = {name: x.clone() for name, x in model.items()}
        while len(self.draws) > self.schedule.most:
            self.schedule = self.schedule.sparser()
            self.draws = {number: tree for number, tree in self.draws.items() if self.schedule.due(number)}
        self._known = {number: found for number, found in self._known.items() if number in self.draws}

    def metrics(self) -> dict[str, float]:
        """Give what the model in the network is worth, and what the average over the kept draws is.

        Keys: ``ece`` (calibration error), ``entropy`` and ``ood_entropy`` of the model, and the same of the average,
        with ``posterior_`` before them, as well as ``posterior_accuracy``, ``posterior_nll``, ``posterior_draws``, and
        ``posterior_gain``, by how many nats an example the average is likelier than the model alone. ``ood_gap`` and
        ``posterior_ood_gap`` are how much more unsure predictions are of the other data than of the test set.
        """
        here = self._probabilities()
        row, self._bins = self._judged("", *here), {"model": self._table(here[0])}
        if self.draws:
            now = {name: x.clone() for name, x in self.network.tree().items()}
            for number, tree in self.draws.items():
                if number not in self._known:
                    self.network.copy(tree)
                    self._known[number] = self._probabilities()
            self.network.copy(now)
            mean, unlike = self._mean([self._known[number] for number in self.draws])
            row |= self._judged("posterior_", mean, unlike)
            row["posterior_draws"] = float(len(self.draws))
            row["posterior_accuracy"] = float((mean.argmax(1) == self.y).double().mean())
            row["posterior_nll"] = negative_log_likelihood(mean, self.y)
            row["posterior_gain"] = negative_log_likelihood(here[0], self.y) - row["posterior_nll"]
            self._bins["posterior"] = self._table(mean)
        return row

    def _mean(self, found: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
        mean = torch.stack([p for p, _ in found]).double().mean(0)
        others = [q for _, q in found if q is not None]
        return mean, torch.stack(others).double().mean(0) if others else None

    def _judged(self, prefix: str, probabilities: Tensor, unlike: Tensor | None) -> dict[str, float]:
        row = {
            f"{prefix}ece": calibration_error(reliability(probabilities, self.y)),
            f"{prefix}entropy": entropy(probabilities),
        }
        if unlike is None:
            return row
        unsure = entropy(unlike)
        return row | {f"{prefix}ood_entropy": unsure, f"{prefix}ood_gap": unsure - row[f"{prefix}entropy"]}

    def _table(self, probabilities: Tensor) -> dict[str, list[float | None]]:
        columns = reliability(probabilities, self.y)._asdict()
        return {name: [None if v != v else v for v in column.tolist()] for name, column in columns.items()}

    def _probabilities(self) -> tuple[Tensor, Tensor | None]:
        return self._softmax(self.x), None if self.unlike is None else self._softmax(self.unlike)

    def _softmax(self, x: Tensor) -> Tensor:
        self.network.module.eval()
        with torch.no_grad():
            parts = [
                self.network.module(self.network.inputs(x[i : i + self.batch_size])).softmax(-1)
                for i in range(0, len(x), self.batch_size)
            ]
        return torch.cat(parts).cpu()

    def save(self, folder: Path) -> None:
        """Leave accuracy against confidence in the arm's folder, for the picture."""
        if self._bins:
            write_json(folder / RELIABILITY, self._bins)

    def state_dict(self) -> dict[str, Any]:
        """Give the draws and how sparsely they are kept."""
        every = 0 if self.schedule is None else self.schedule.every
        return {"every": every, "draws": {str(number): dict(tree) for number, tree in self.draws.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.draws = {int(number): dict(tree) for number, tree in state["draws"].items()}
        if self.schedule is not None and self.draws:
            self.schedule = Schedule(self.schedule.burn_in, int(state["every"]), self.schedule.most)
        self._known = {}


def unlike_images(other: Dataset, shape: tuple[int, ...], *, most: int = 1000) -> Tensor:
    """Give test images of another data set in the shape of this one's, ``[n, *shape]``: scaled without a border.

    Raises:
        UserError: either are no images.
    """
    if len(shape) != 3 or other.test_x.ndim != 4:
        raise UserError(f"evaluate.ood: '{other.name}' holds no images in the shape {list(shape)}; leave it out")
    x = torch.from_numpy(other.test_x[:most]).float()
    x = F.interpolate(x, size=shape[1:], mode="bilinear", align_corners=False)
    return x.mean(1, keepdim=True).expand(-1, shape[0], -1, -1).contiguous()


def build_predicting(
    scenario: FederatedScenario, data: FederatedData, network: Network, datasets: dict[str, Dataset] | None
) -> Predicting | None:
    """Give what judges probabilities and averages of draws, where the scenario asks for it.

    Args:
        scenario: its ``evaluate`` block says what is wanted.
        data: with the test set.
        network: into which models are loaded.
        datasets: data sets that were loaded before, by name.

    Raises:
        UserError: the data has no single labels, or images of the other data set do not fit it.
    """
    settings = scenario.evaluate
    if not settings.calibration and settings.posterior is None:
        return None
    device = next(iter(network.params.values())).device
    unlike = None
    if settings.ood is not None:
        cache = datasets if datasets is not None else {}
        key = f"ood:{settings.ood}"
        if key not in cache:
            cache[key] = load(settings.ood)
        unlike = unlike_images(cache[key], tuple(data.x.shape[1:])).to(device)
    kept = settings.posterior
    return Predicting(
        network,
        torch.from_numpy(data.test_x).to(device),
        torch.from_numpy(data.test_y),
        unlike=unlike,
        schedule=None if kept is None else Schedule(kept.burn_in, kept.every, kept.keep),
        batch_size=settings.batch_size,
    )
