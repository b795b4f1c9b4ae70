"""The dual form of a network of one layer (:mod:`fedmomentum.clients.dual`): outputs of all examples stay up to date.

A step moves the outputs of a client's other examples by ``(X X_s^T) D_s``, and a heavy ball does so from then on with
what is left of it. So these outputs have a velocity ``V``, for which no weight is needed:

    V <- beta V + (X X_s^T) D_s        Z <- Z - lr V

Nothing has to be found out about the steps before, and an epoch ends without a mark. For ten classes this is less than
to look back at each step; for a wide layer it is more, because each step writes all outputs.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum.clients.batches import StackedPlan
from fedmomentum.clients.dense import mean_shares
from fedmomentum.clients.gram import Own


def gone(lr: float, beta: float, steps: int) -> NDArray[np.float64]:
    """Give ``-lr (1 + beta + ... + beta^(i - 1))``, how far a gradient has gone after ``i`` steps, up to so many."""
    return np.concatenate([[0.0], -lr * np.cumsum(beta ** np.arange(float(steps)))])


def train_outputs(
    start_RU: Tensor,
    inner: Own,
    plan: StackedPlan,
    labels_SKB: Tensor,
    share_K: Tensor,
    lr: float,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """Take all steps; give how far each example has gone, weighed by shares, ``[U, R]``, and the sums of the losses.

    Units come first, then clients: torch's softmax is several times faster over an axis that is not the last.

    Args:
        start_RU: outputs at the model of the round.
        inner: inputs of K clients in R rows.
        plan: their batches.
        labels_SKB: of the examples of every step.
        share_K: weight of each client in the mean.
        lr: step size.
        beta: momentum.
    """
    (steps, clients, batch), units = labels_SKB.shape, start_RU.shape[1]
    own_KN = np.minimum(np.arange(inner.most), inner.sizes[:, None] - 1)
    rows_Q = inner.to(own_KN + inner.starts[:, None]).view(-1)
    z_UQ = start_RU.index_select(0, rows_Q).T.contiguous()  # Q: K clients with room for the examples of the largest
    z_UKN = z_UQ.view(units, clients, -1)
    velocity_KUN = z_UKN.new_zeros(clients, units, inner.most)
    share_SKB = mean_shares(plan.weights_SKB)
    away_SUKB = share_SKB.new_zeros(steps, units, clients, batch)
    away_SUKB.scatter_(1, labels_SKB.unsqueeze(1), share_SKB.neg().unsqueeze(1))
    seen_SUKB, back_USKB = torch.zeros_like(away_SUKB), away_SUKB.new_zeros(units, steps, clients, batch)
    places_SKB = inner.to(inner.own_SKB + (np.arange(clients) * inner.most)[:, None])
    for step, active in enumerate(plan.active):
        z_UAB, back_UAB = seen_SUKB[step, :, :active], back_USKB[:, step, :active]
        z_UAB.copy_(z_UQ.index_select(1, places_SKB[step, :active].view(-1)).view(z_UAB.shape))
        torch.addcmul(away_SUKB[step, :, :active], torch.softmax(z_UAB, 0), share_SKB[step, :active], out=back_UAB)
        if step + 1 < steps:
            lines_ABN = inner.lines(step, active)
            velocity_AUN = velocity_KUN[:active].baddbmm_(back_UAB.transpose(0, 1), lines_ABN, beta=beta)
            z_UKN[:, :active].add_(velocity_AUN.transpose(0, 1), alpha=-lr)
    log_SKB = torch.log_softmax(seen_SUKB, 1).gather(1, labels_SKB.unsqueeze(1)).squeeze(1)
    loss_K = log_SKB.mul_(plan.weights_SKB).sum((0, 2)).neg_()
    ages_SK = (plan.steps - np.arange(steps)[:, None]).clip(0)
    far_SK = torch.from_numpy(gone(lr, beta, steps)[ages_SK]).to(share_K).mul_(share_K)
    back_USKB.mul_(far_SK.unsqueeze(2))
    return inner.gather(back_USKB), loss_K
