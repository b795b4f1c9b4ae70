"""How far the clients of a round agree, from the mean update and the lengths of the single ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from fedmomentum.trees import norm, sub

DRIFT = "probe_drift"
"""Column of the clients' metrics with the length of each one's update, where the scenario asks for that probe."""


def agreement(
    old: Mapping[str, Tensor],
    mean: Mapping[str, Tensor],
    lengths: Sequence[float],
    weights: Sequence[float],
    *,
    population: int,
) -> dict[str, float]:
    """Give the coherence of a round's updates D_i, and the sampling noise of their mean; nothing where all are zero.

        coherence = |D|^2/sum_i w_i |D_i|^2,   noise = (N - S)/(N - 1) S/(S - 1) sum_i w_i^2 (sum_i w_i |D_i|^2 - |D|^2)

    One where clients agree, 1/S where equally weighted ones share nothing. The noise is the expected squared error of D
    as an estimate of the whole population's: exact for equal weights, else as if spread and weight were unrelated.

    Args:
        old: parameters that were sent.
        mean: the weighted mean of those that came back.
        lengths: ``|D_i|`` of each client.
        weights: of each client.
        population: N, clients in all.

    Reference: the analogy :mod:`fedmomentum.analogies.server_momentum`, ``probe``.
    """
    total = sum(weights)
    if total <= 0:
        return {}
    shares = [weight / total for weight in weights]
    power = sum(w * length**2 for w, length in zip(shares, lengths, strict=True))
    size = float(norm(sub(old, mean))) ** 2
    if not (math.isfinite(power) and power > 0):
        return {}
    s = len(lengths)
    found = {"probe_coherence": size / power}
    if 2 <= s <= population:
        apart = sum(w * w for w in shares) * max(power - size, 0.0)
        found["probe_sampling_noise"] = apart * s / (s - 1) * (population - s) / (population - 1)
    return found
