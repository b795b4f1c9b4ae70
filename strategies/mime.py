"""Local training that mimics a centralised optimizer, whose state the server alone moves. arXiv:2008.03606."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from logging import WARNING
from typing import Any, ClassVar, Literal

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore import log
from torch import Tensor

from fedmomentum.optim import Rule, make_rule
from fedmomentum.protocol import GRADIENT, RULE_STATE
from fedmomentum.strategies import records
from fedmomentum.strategies.broadcast import Broadcast
from fedmomentum.strategies.carried import Carrying
from fedmomentum.strategies.gradients import mean_gradient
from fedmomentum.trees import Tree


@dataclass(eq=False, repr=False)
class MimeLite(Carrying):
    """``s <- state(rule, c)``, ``x <- x - eta mean(D_i)``; clients step by ``rule(g(y); s)`` with ``s`` held fixed.

    ``c`` is the mean of the cohort's full gradients at ``x``, which clients send with their models. With ``ema`` as the
    rule, ``y <- y - lr ((1 - beta) g(y) + beta m)`` and then ``m <- (1 - beta) c + beta m``.

    Args:
        rule: the optimizer to mimic, a :class:`~fedmomentum.optim.Rule` or a name in ``fedmomentum.optim.RULES``; it
            has to be the clients' own. Only its state is used here, so its learning rate does not matter.
        rule_options: hyperparameters of a rule given by name.
        server_learning_rate: ``eta``, above 0.

    Raises:
        ValueError: an argument is out of range.

    Reference: arXiv:2008.03606.
    """

    _: KW_ONLY
    rule: Rule | str = "ema"
    rule_options: Mapping[str, Any] = field(default_factory=lambda: {"lr": 1.0, "momentum": 0.9})
    server_learning_rate: float = 1.0
    weighting: Literal["examples", "uniform"] = "uniform"

    client_method: ClassVar[str] = "mimelite"

    def __post_init__(self) -> None:
        """Check the arguments, those of the rule among them."""
        super().__post_init__()
        if not self.server_learning_rate > 0:
            raise ValueError(f"server_learning_rate must be above 0, not {self.server_learning_rate}")
        self._rule = make_rule(self.rule, **self.rule_options) if isinstance(self.rule, str) else self.rule

    def extra_to_clients(self, params: Mapping[str, Tensor]) -> Mapping[str, Tree]:
        """Send the optimizer's state, slot by slot."""
        state = self._carried or self._rule.init(params)
        return {RULE_STATE + slot: tree for slot, tree in state.items()}

    def extra_in_replies(self, params: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """Expect each client's full gradient."""
        return {GRADIENT: params}

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Take the step, and move the optimizer's state with the mean gradient at the model that was sent."""
        self._move_state(old, extras[GRADIENT])
        return {name: x + self.server_learning_rate * (mean[name] - x) for name, x in old.items()}

    def _move_state(self, old: Tree, gradient: Tree) -> None:
        like = {name: gradient[name].to(x.dtype) for name, x in old.items()}
        _, self._carried = self._rule.update(like, self._carried or self._rule.init(old), old)


@dataclass(eq=False, repr=False)
class Mime(MimeLite):
    """MimeLite on gradients freed of the client's bias: clients step by ``rule(g(y) - g(x) + c; s)``.

    Clients need ``c`` before they train, so a round has two exchanges: the model for full gradients, then ``c`` and the
    state for trained models. Both are counted in the round's bytes.

    Args:
        gradient_timeout: seconds to wait for the gradients; who has not answered then has no part in ``c``.

    Reference: arXiv:2008.03606.
    """

    _: KW_ONLY
    gradient_timeout: float | None = 3600.0

    client_method: ClassVar[str] = "mime"

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        self._gradient: Tree = {}

    def extra_in_replies(self, params: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """Expect nothing beside the model: the gradients have come before."""
        return {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Choose the cohort, ask it for its full gradients, and make the messages that hold their mean.

        Raises:
            TimeoutError, ValueError: as for :class:`FedAvg`.
        """
        messages = super().configure_train(server_round, arrays, config, grid)
        if not isinstance(messages, Broadcast) or not messages:
            return messages
        content = messages.content
        query = RecordDict({name: content[name] for name in (self.arrayrecord_key, self.configrecord_key)})
        found = mean_gradient(
            grid,
            query,
            self._asked,
            {name: x.numpy() for name, x in self._old.items()},
            weighted_by=self.weighted_by_key,
            uniform=self.weighting == "uniform",
            timeout=self.gradient_timeout,
        )
        if found is None:
            log(WARNING, "round %d: no client gave its gradient; nobody trains", server_round)
            return []
        self._gradient = found
        content[GRADIENT] = records.record(self._gradient)  # the messages of a round share their content
        return messages

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Take the step, and move the optimizer's state with the mean gradient at the model that was sent."""
        return super().server_update(old, mean, {GRADIENT: self._gradient})
