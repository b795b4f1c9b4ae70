"""Server optimizers: a momentum rule applied to the pseudo-gradient ``old - mean(new)``. arXiv:2003.00295."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from fedmomentum.optim import Rule, make_rule
from fedmomentum.strategies.fedavg import FedAvg
from fedmomentum.trees import State, Tree, add, sub


@dataclass(eq=False, repr=False)
class ServerOptimizer(FedAvg):
    """A strategy that descends the pseudo-gradient with a rule: ``x <- x + rule(x - mean(x_i))``.

    A subclass gives the rule. It is asked for it every round, so a hyperparameter assigned between two rounds counts.
    """

    def __post_init__(self) -> None:
        """Check the arguments, those of the rule among them."""
        super().__post_init__()
        self._state: State | None = None
        self.server_rule()

    @abstractmethod
    def server_rule(self) -> Rule | None:
        """Give the rule for the pseudo-gradient, or None to take the mean as it is."""

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Take one step of the rule."""
        rule = self.server_rule()
        if rule is None:
            return mean
        state = rule.init(old) if self._state is None else self._state
        updates, self._state = rule.update(sub(old, mean), state, old)
        return add(old, updates)

    def reset(self) -> None:
        """Forget every round, and with them the momentum."""
        super().reset()
        self._state = None

    def server_state(self) -> dict[str, Any]:
        """Give the state of the rule, slot by slot; empty before its first step."""
        return {} if self._state is None else {slot: dict(tree) for slot, tree in self._state.items()}

    def load_server_state(self, state: Mapping[str, Any]) -> None:
        """Take back the state of the rule."""
        self._state = {slot: {name: x.clone() for name, x in tree.items()} for slot, tree in state.items()} or None


@dataclass(eq=False, repr=False)
class FedOpt(ServerOptimizer):
    """Any rule on the server: ``x <- x + rule(x - mean(x_i))``. arXiv:2003.00295.

    Example:
        >>> FedOpt(rule="nesterov", rule_options={"lr": 1.0, "momentum": 0.9}, fraction_train=0.1)

    Args:
        rule: a :class:`~fedmomentum.optim.Rule`, or the name of one in ``fedmomentum.optim.RULES``.
        rule_options: hyperparameters of a rule given by name.

    Raises:
        ValueError: the rule's name or a hyperparameter is wrong, or options come with a ready-made rule.
    """

    _: KW_ONLY
    rule: Rule | str
    rule_options: Mapping[str, Any] = field(default_factory=dict)

    def server_rule(self) -> Rule:
        """Give the rule."""
        if isinstance(self.rule, str):
            return make_rule(self.rule, **self.rule_options)
        if self.rule_options:
            raise ValueError("rule_options go with the name of a rule; a ready-made Rule has its hyperparameters")
        return self.rule
