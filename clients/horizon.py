"""How many gradients a client's steps add up, whatever momentum its rule has."""

from __future__ import annotations

import torch
from torch import Tensor

from fedmomentum.optim.rule import Rule
from fedmomentum.trees import State, Tree

_UNIT = 2.0**-20
"""The gradient that is fed in: a power of two, so nothing is rounded, and too short to be clipped."""


class Horizon:
    """``a = sum_k a_k`` where ``K`` steps of a linear rule give ``x - y = lr sum_k a_k g_k``.

    Gradient descent has ``a = K``; a heavy ball of momentum ``b`` has ``a = (K - b (1 - b^K) / (1 - b)) / (1 - b)``,
    the momentum-corrected normaliser of arXiv:2007.07481. It is measured: the rule itself walks down a slope of 1.
    """

    def __init__(self, rule: Rule, wanted_by: str) -> None:
        """Take the rule.

        Raises:
            ValueError: the rule is not linear, such as Adam: its steps are no sum of gradients.
        """
        self._rule, self._sums, self._lr = rule, torch.zeros(1, dtype=torch.float64), 0.0
        once, twice = self._walk(3, _UNIT), self._walk(3, 2.0 * _UNIT)
        if not torch.allclose(2.0 * once, twice, rtol=1e-9, atol=0.0):
            raise ValueError(f"{wanted_by} needs a linear rule on the clients: sgd, heavy_ball, nesterov or ema")

    def __call__(self, steps: int | Tensor, lr: float) -> Tensor:
        """Give ``a`` after so many steps, ``[]`` or ``[K]`` as the steps are, for a rule of learning rate ``lr``."""
        most = int(steps.max()) if isinstance(steps, Tensor) else steps
        if most >= len(self._sums) or lr != self._lr:
            self._sums, self._lr = self._walk(most, _UNIT) / (_UNIT * lr), lr
        found = self._sums.to(steps.device)[steps] if isinstance(steps, Tensor) else self._sums[steps]
        return found

    def _walk(self, steps: int, slope: float) -> Tensor:
        """Give the way that the rule has come down after each number of steps, ``[steps + 1]``."""
        params: Tree = {"x": torch.zeros((), dtype=torch.float64)}
        grads: Tree = {"x": torch.full((), slope, dtype=torch.float64)}
        state: State = self._rule.init(params)
        way = [params["x"]]
        for _ in range(steps):
            updates, state = self._rule.update(grads, state, params)
            params = {"x": params["x"] + updates["x"]}
            way.append(params["x"])
        return -torch.stack(way)
