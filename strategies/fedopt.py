"""Server optimizers: a momentum rule applied to the pseudo-gradient ``old - mean(new)``. arXiv:2003.00295."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

from fedmomentum.heap import give_back
from fedmomentum.optim import Rule, make_rule
from fedmomentum.protocol import LARGE
from fedmomentum.strategies.fedavg import FedAvg
from fedmomentum.trees import State, Tree, add, same_layout, sub


@dataclass(eq=False, repr=False)
class ServerOptimizer(FedAvg):
    """A strategy that descends the pseudo-gradient with a rule: ``x <- x + rule(x - mean(x_i))``.

    A subclass gives the rule. It is asked for it every round, so a hyperparameter assigned between two rounds counts.
    """

    by_tensor: ClassVar[bool] = False
    """Whether the rule does to each tensor what it does to it alone: of a large model it then steps tensor by tensor,
    to the same bits, and no tree is held that is made on the way."""

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
        if self.by_tensor and sum(x.nbytes for x in old.values()) >= LARGE:
            self._state = None
            new, self._state = _step_by_tensor(rule, old, mean, state)
            return new
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

    @property
    def by_tensor(self) -> bool:  # type: ignore[override]
        """Every rule that has a name does; what a ready-made one does is not known."""
        return isinstance(self.rule, str)

    def server_rule(self) -> Rule:
        """Give the rule."""
        if isinstance(self.rule, str):
            return make_rule(self.rule, **self.rule_options)
        if self.rule_options:
            raise ValueError("rule_options go with the name of a rule; a ready-made Rule has its hyperparameters")
        return self.rule


def _step_by_tensor(rule: Rule, old: Tree, mean: Tree, state: State) -> tuple[Tree, State]:
    """Give the new model and the new state of a rule, whose old state goes tensor by tensor as the new one comes."""
    same_layout(old, mean)
    slots = {slot: tree for slot, tree in state.items() if slot != "step"}
    for tree in slots.values():
        same_layout(old, tree)
    new: Tree = {}
    following = {"step": state["step"]} if "step" in state else {}
    for name, x in old.items():
        held = {slot: {name: tree.pop(name)} for slot, tree in slots.items()}
        if "step" in state:
            held["step"] = state["step"]
        updates, kept = rule.update({name: x - mean[name]}, held, {name: x})
        new[name] = x + updates[name]
        for slot, tree in slots.items():
            tree[name] = kept[slot][name]
        following = {slot: tree for slot, tree in kept.items() if slot == "step"}
        del updates, kept, held
        give_back()  # the heap has holes where the old state and what was made on the way were
    return new, slots | following
