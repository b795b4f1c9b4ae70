"""Federated averaging with a step size that clients' disagreement settles. arXiv:2301.09604."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from fedmomentum.protocol import DRIFT
from fedmomentum.strategies import records
from fedmomentum.strategies.carried import Carrying
from fedmomentum.trees import Tree, cast_like, dot, sub

_BEFORE = "before"


@dataclass(eq=False, repr=False)
class FedExP(Carrying):
    """``x <- x - eta mean(D_i)`` with ``eta = max(1, mean(|D_i|^2) / (2 (|mean(D_i)|^2 + epsilon)))``.

    The more the clients' updates ``D_i = x - y_i`` cancel in their mean, the longer the step. The iterates swing around
    the optimum, so the model that is evaluated is the mean of the last two (the one that is trained on is not).

    Args:
        epsilon: above 0; limits the step where the updates cancel altogether.

    Raises:
        ValueError: an argument is out of range.

    Attributes:
        step_size: ``eta`` of the last round.

    Reference: arXiv:2301.09604.
    """

    _: KW_ONLY
    epsilon: float = 1e-3

    client_method: ClassVar[str] = "fedexp"

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        self.step_size = 1.0
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be above 0, not {self.epsilon}")

    def extra_in_replies(self, params: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """Expect the squared length of each update."""
        return {DRIFT: {"squared": torch.zeros((), dtype=torch.float64)}}

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Take one extrapolated step."""
        way = sub(old, mean)
        length = float(dot(way, way))
        self.step_size = max(1.0, float(extras[DRIFT]["squared"]) / (2.0 * (length + self.epsilon)))
        self.carry(_BEFORE, old)
        return {name: x - self.step_size * way[name] for name, x in old.items()}

    def evaluated(self, arrays: ArrayRecord) -> ArrayRecord:
        """Give the mean of the last two iterates; buffers are those of the last."""
        now = records.views(arrays)
        before = self._carried.get(_BEFORE, {})
        halves = {
            name: cast_like((x.to(before[name].dtype) + before[name]) / 2.0, x)
            for name, x in records.tree({name: now[name] for name in before}).items()
        }
        return records.record({**now, **halves}) if before else arrays
