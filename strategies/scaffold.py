"""Federated averaging with control variates against client drift. arXiv:1910.06378."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from fedmomentum.protocol import CONTROL
from fedmomentum.strategies.carried import Carrying
from fedmomentum.trees import Tree


@dataclass(eq=False, repr=False)
class Scaffold(Carrying):
    """``x <- x - eta mean(D_i)``, ``c <- c + (|S| / N) mean(c_i' - c_i)`` for ``S`` of the ``N`` clients.

    Clients descend ``g(y) - c_i + c`` and keep their ``c_i``; the server sends ``c``, clients send what ``c_i`` changed
    by. Its fixed point is the optimum of the mean that the control variates form: of all clients alike by default, as
    in the paper. With ``weighting="examples"`` that is exact under full participation.

    Args:
        server_learning_rate: ``eta``, above 0.
        control: how clients renew ``c_i``: from their ``steps`` (the paper's option II) or by the full ``gradient`` of
            their loss at ``x`` (option I), which costs one pass over the data and suits every client rule.

    Raises:
        ValueError: an argument is out of range.

    Reference: arXiv:1910.06378.
    """

    _: KW_ONLY
    server_learning_rate: float = 1.0
    control: Literal["steps", "gradient"] = "steps"
    weighting: Literal["examples", "uniform"] = "uniform"

    client_method: ClassVar[str] = "scaffold"

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if not self.server_learning_rate > 0:
            raise ValueError(f"server_learning_rate must be above 0, not {self.server_learning_rate}")
        if self.control not in ("steps", "gradient"):
            raise ValueError(f"control must be steps or gradient, not '{self.control}'")

    def client_options(self) -> dict[str, Any]:
        """Give the way in which control variates are renewed."""
        return {"control": self.control}

    def extra_to_clients(self, params: Mapping[str, Tensor]) -> Mapping[str, Tree]:
        """Send the control variate."""
        return {CONTROL: self.carried(CONTROL, params)}

    def extra_in_replies(self, params: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """Expect the change of each client's control variate."""
        return {CONTROL: params}

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Take the step, and move the control variate."""
        share = self.accepted / self.population
        before, change = self.carried(CONTROL, old), extras[CONTROL]
        self.carry(CONTROL, {name: c + share * change[name].to(c.dtype) for name, c in before.items()})
        return {name: x + self.server_learning_rate * (mean[name] - x) for name, x in old.items()}
