"""Clients with a diagonal quadratic each, behind a Flower grid: as many independent chains as there are copies of it.

Every federated sampler here treats coordinates alike and apart, so C copies of a problem of P coordinates, side by side
in one parameter, are C chains that share nothing but the cohorts.
"""

from __future__ import annotations

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord
from torch import Tensor

from fedmomentum.strategies import FedAvg, make_strategy
from tests.algorithms.quadratics import QuadraticGrid

H = torch.tensor([[0.5, 2.0], [1.0, 0.3], [2.5, 1.2]], dtype=torch.float64)
"""Curvatures ``[N, P]`` of three clients."""
B = torch.tensor([[1.0, -1.0], [-2.0, 0.5], [0.3, 2.0]], dtype=torch.float64)
"""Their modes."""
MODE = (H * B).sum(0) / H.sum(0)
PRECISION = H.mean(0)
"""Of the mean of the clients' losses."""


class Problem:
    """Curvatures and modes, each repeated for every chain: ``[N, C P]``."""

    def __init__(self, curvatures: Tensor, modes: Tensor, chains: int) -> None:
        self.hessians, self.centres = curvatures.repeat(1, chains), modes.repeat(1, chains)


class GaussianGrid(QuadraticGrid):
    """Nodes whose loss is ``h_i (x - b_i)^2 / 2``, summed over the coordinates."""

    def gradient(self, clients):
        hessians, centres = self.problem.hessians[clients], self.problem.centres[clients]
        return lambda point: {"x": hessians * (point["x"] - centres)}


def sample(
    name: str,
    *,
    rounds: int,
    chains: int,
    lr: float,
    steps: int = 1,
    last: int = 1,
    curvatures: Tensor = H,
    modes: Tensor = B,
    rule: str = "sgd",
    start: Tensor | None = None,
    seed: int = 0,
    **options: object,
) -> tuple[Tensor, FedAvg]:
    """Give the last models of many chains, ``[last, C, P]``, and the strategy.

    Args:
        start: where every chain begins, ``[P]``; the mode by default.
    """
    strategy = make_strategy(name, fraction_evaluate=0.0, seed=seed, **options)
    half = strategy.client_method, strategy.client_options()
    grid = GaussianGrid(*half, rule=rule, lr=lr, steps=steps, problem=Problem(curvatures, modes, chains))
    first = (MODE if start is None else start).repeat(chains)
    arrays = ArrayRecord({"x": Array(first.numpy())})
    kept = []
    for server_round in range(1, rounds + 1):
        messages = list(strategy.configure_train(server_round, arrays, ConfigRecord(), grid))
        arrays, _ = strategy.aggregate_train(server_round, grid.send_and_receive(messages))
        assert strategy.rejected == [] and arrays is not None
        if server_round > rounds - last:
            kept.append(torch.from_numpy(arrays["x"].numpy().copy()).reshape(chains, -1))
    return torch.stack(kept), strategy


def agree(draws: Tensor, mean: Tensor, variance: Tensor, *, rtol: float) -> None:
    """Hold independent draws ``[C, P]`` against moments: the mean in standard errors, the variance relatively."""
    z = (draws.mean(0) - mean) / (variance / len(draws)).sqrt()
    assert float(z.abs().max()) < 4.5, f"means {draws.mean(0).tolist()}, not {mean.tolist()}"
    assert rtol > 4 * (2 / len(draws)) ** 0.5, "the tolerance is within the noise of the draws"
    torch.testing.assert_close(draws.var(0), variance, rtol=rtol, atol=0)
