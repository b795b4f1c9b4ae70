"""The dual form of a network of one layer (:mod:`fedmomentum.clients.dual`): outputs of all examples stay up to date.

A step moves the outputs of a client's other examples by ``(X X_s^T) D_s``, and a heavy ball does so from then on with
what is left of it. So these outputs have a velocity ``V``, for which no weight is needed:

    V <- beta V + (X X_s^T) D_s        Z <- Z - lr V

Nothing has to be found out about the steps before, and an epoch ends without a mark. For ten classes this is less than
to look back at each step; for a wide layer it is more, because each step writes all outputs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum.clients.batches import StackedPlan
from fedmomentum.clients.gram import Own, Places


@lru_cache(maxsize=32)
def gone(lr: float, beta: float, steps: int) -> NDArray[np.float64]:
    """Give ``-lr (1 + beta + ... + beta^(i - 1))``, how far a gradient has gone after ``i`` steps, up to so many."""
    return np.concatenate([[0.0], -lr * np.cumsum(beta ** np.arange(float(steps)))])


class Steps:
    """All steps of K clients, and where in them each of their R examples is seen; nothing here depends on a model.

    Units come first, then clients: torch's softmax is several times faster over an axis that is not the last.

    Args:
        inner: inputs of the clients.
        plan: their batches.
        labels_SKB: of the examples of every step.
        share_K: weight of each client in the mean.
        units: outputs of the layer.
    """

    def __init__(self, inner: Own, plan: StackedPlan, labels_SKB: Tensor, share_K: Tensor, units: int) -> None:
        """Find where the steps see which example."""
        self._inner, self._plan, self._share_K, frame = inner, plan, share_K, plan.frame
        steps, clients, batch = labels_SKB.shape
        self._labels_S1KB = labels_SKB.unsqueeze(1)
        self._away_SUKB = frame.share_SKB.new_zeros(steps, units, clients, batch)
        self._away_SUKB.scatter_(1, self._labels_S1KB, frame.against_SKB.unsqueeze(1))
        self._places_SKB = plan.rows_SKB  # Q: K clients with room for the examples of the largest
        if inner.held.with_room is not None:
            self._places_SKB = inner.to(inner.own_SKB + (np.arange(clients) * inner.held.most)[:, None])
        self._seen: Places = inner.seen()

    def take(self, start_UR: Tensor, lr: float, beta: float) -> tuple[Tensor, Tensor]:
        """Take all steps; give how far each example has gone, weighed by shares, ``[U, R]``, and sums of losses.

        Args:
            start_UR: outputs at the model of the round; they are written to.
            lr: step size.
            beta: momentum.
        """
        inner, frame, (steps, units, clients, batch) = self._inner, self._plan.frame, self._away_SUKB.shape
        z_UQ = self._with_room(start_UR)
        z_UKN = z_UQ.view(units, clients, -1)
        velocity_KUN = z_UKN.new_zeros(clients, units, inner.held.most)
        seen_SUKB, back_USKB = torch.zeros_like(self._away_SUKB), z_UQ.new_zeros(units, steps, clients, batch)
        for step, active in enumerate(frame.active):
            z_UAB, back_UAB = seen_SUKB[step, :, :active], back_USKB[:, step, :active]
            places_AB = self._places_SKB[step, :active].view(-1)
            if active == clients:
                torch.index_select(z_UQ, 1, places_AB, out=z_UAB.view(units, -1))
            else:
                z_UAB.copy_(z_UQ.index_select(1, places_AB).view(z_UAB.shape))
            share_AB = frame.share_SKB[step, :active]
            torch.addcmul(self._away_SUKB[step, :, :active], torch.softmax(z_UAB, 0), share_AB, out=back_UAB)
            if step + 1 < steps:
                lines_ABN = inner.lines(step, active)
                velocity_AUN = velocity_KUN[:active].baddbmm_(back_UAB.transpose(0, 1), lines_ABN, beta=beta)
                z_UKN[:, :active].add_(velocity_AUN.transpose(0, 1), alpha=-lr)
        log_SKB = torch.log_softmax(seen_SUKB, 1).gather(1, self._labels_S1KB).squeeze(1)
        loss_K = log_SKB.mul_(frame.weights_SKB).sum((0, 2)).neg_()
        far_SK = torch.from_numpy(gone(lr, beta, steps)).to(back_USKB)[frame.left_SK].mul_(self._share_K)
        back_USKB.mul_(far_SK.unsqueeze(2))
        return self._seen.sum(back_USKB.flatten(1), 1), loss_K

    def _with_room(self, start_UR: Tensor) -> Tensor:
        """Give outputs client by client, ``[U, Q]``."""
        rows_Q = self._inner.held.with_room
        if rows_Q is None:
            return start_UR.contiguous()
        return start_UR.T.index_select(0, rows_Q).T.contiguous()
