"""Strategies whose global model is a chain that samples ``exp(-f / T)``: what FALD, FSGLD and DG-LMC have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fedmomentum.protocol import SAMPLING
from fedmomentum.samplers.noise import chain_keys, normal_like
from fedmomentum.strategies.carried import Carrying
from fedmomentum.streams import torch_stream
from fedmomentum.trees import Tree


@dataclass(eq=False, repr=False)
class Sampling(Carrying):
    """The target is ``exp(-f / T)`` with ``f = sum_i p_i f_i`` and the clients' mean losses ``f_i``.

    With n examples in the federation ``T = 1 / n`` is the posterior, and a weight decay ``lambda`` of the clients' rule
    is a Gaussian prior of precision ``lambda n``.

    Args:
        temperature: ``T``, at least 0.
        examples: n, of all clients together, so that ``p_i`` is a client's share of them; None: every ``p_i`` is one in
            so many clients.
    """

    _: KW_ONLY
    temperature: float = 1.0
    examples: float | None = None
    weighting: Literal["examples", "uniform"] = "uniform"

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be at least 0, not {self.temperature}")
        if self.examples is not None and not self.examples > 0:
            raise ValueError(f"examples must be above 0, not {self.examples}")

    def client_options(self) -> dict[str, Any]:
        """Give the temperature, and the number of all examples."""
        return {"temperature": self.temperature, "examples": self.examples}

    def extra_to_clients(self, params: Mapping[str, Tensor]) -> Mapping[str, Tree]:
        """Send how many clients there are, and how many take part."""
        return {SAMPLING: counts(self.population, len(self._asked))}


def counts(clients: int, cohort: int) -> Tree:
    """Give the record that says how many clients there are, and how many take part."""
    return {
        "clients": torch.tensor(float(clients), dtype=torch.float64),
        "cohort": torch.tensor(float(cohort), dtype=torch.float64),
    }


def server_noise(like: Mapping[str, Tensor], *, seed: int, server_round: int) -> Tree:
    """Give standard normals in the layout of a model: those of the server in a round."""
    key = chain_keys(torch_stream(seed, "server noise", round=server_round), 1).squeeze(0)
    return normal_like(key, like)
