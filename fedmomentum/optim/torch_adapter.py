"""Any rule as a ``torch.optim.Optimizer``, for training loops that are written for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, required

from fedmomentum.optim.hyper import HyperparameterError
from fedmomentum.optim.registry import hyperparameters, make_rule
from fedmomentum.optim.rule import Rule
from fedmomentum.trees import State


def as_torch_optimizer(rule: str | Rule, params: ParamsT, **hyper: Any) -> RuleOptimizer:
    """Give a torch optimizer that steps by a rule.

    A rule by name has its hyperparameters in the parameter groups, as torch's own optimizers do: each group may have
    its own, and learning-rate schedulers change ``group["lr"]``. A :class:`Rule` has its step size inside; there
    ``group["lr"]`` is a factor on its updates, 1 unless ``lr`` is given, and schedulers change the factor.

    Example:
        >>> optimizer = as_torch_optimizer("heavy_ball", model.parameters(), lr=0.1, momentum=0.9)
        >>> optimizer = as_torch_optimizer(chain(clip_by_norm(1.0), adam(lr=1e-3)), model.parameters())

    Args:
        rule: a name of :data:`~fedmomentum.optim.RULES`, or a rule.
        params: tensors, ``(name, tensor)`` pairs or groups, as for any torch optimizer.
        **hyper: defaults of the hyperparameters; with a :class:`Rule` only ``lr``.

    Raises:
        HyperparameterError: a name is unknown or a value is wrong.
        ValueError: ``lr`` has no value in some group, or torch refuses the parameters.
    """
    return RuleOptimizer(params, rule, hyper)


class RuleOptimizer(Optimizer):
    """What :func:`as_torch_optimizer` gives.

    The state of a parameter is one tensor a slot and its own count of steps, so a parameter that had no gradient for a
    while counts the steps that it took, as in torch. A rule that looks at the whole tree (``clip_by_norm``) sees at
    once those parameters of a group that took equally many steps.
    """

    def __init__(self, params: ParamsT, rule: str | Rule, hyper: dict[str, Any]) -> None:
        """Check the hyperparameters of each group; see :func:`as_torch_optimizer`."""
        defaults: dict[str, Any] = {"lr": 1.0}
        if isinstance(rule, str):
            defaults = hyperparameters(rule)
            defaults["lr"] = required
        for key in hyper.keys() - defaults.keys():
            if not isinstance(rule, str):
                raise HyperparameterError(f"'{key}' is settled where the rule was made; only lr can be given here")
            make_rule(rule, **hyper)
        self._rule = rule
        self._made: dict[int, tuple[dict[str, Any], Rule]] = {}
        super().__init__(params, {**defaults, **hyper})

    def __getstate__(self) -> dict[str, Any]:
        """Give what a copy or a pickle needs."""
        return {**super().__getstate__(), "_rule": self._rule}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what :meth:`__getstate__` or ``load_state_dict`` gave."""
        super().__setstate__(state)
        self._made = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with hyperparameters of its own where it names them."""
        super().add_param_group(param_group)
        try:
            self._rule_of(len(self.param_groups) - 1)
        except ValueError:
            self.param_groups.pop()
            raise

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step on every parameter that has a gradient, and give what ``closure`` gives."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for index, group in enumerate(self.param_groups):
            rule = self._rule_of(index)
            factor = 1.0 if isinstance(self._rule, str) else float(group["lr"])
            for members in self._by_age(rule, group["params"]):
                self._advance(rule, members, factor)
        return loss

    def _rule_of(self, index: int) -> Rule:
        """Give the rule of a group; it is made anew when a scheduler has changed a hyperparameter."""
        group = self.param_groups[index]
        if isinstance(self._rule, Rule):
            _one_number("lr", group["lr"])
            return self._rule
        settings = {key: _one_number(key, group[key]) for key in hyperparameters(self._rule)}
        made = self._made.get(index)
        if made is None or made[0] != settings:
            made = self._made[index] = (settings, make_rule(self._rule, **settings))
        return made[1]

    def _by_age(self, rule: Rule, params: list[Tensor]) -> list[list[Tensor]]:
        """Give the parameters that have a gradient, those with equally many steps together."""
        ages: dict[int, list[Tensor]] = {}
        for x in params:
            if x.grad is None:
                continue
            if x.grad.is_sparse:
                raise RuntimeError("sparse gradients are not supported; make the embedding with sparse=False")
            own = self.state[x]
            if not own:
                own.update({slot: next(iter(tree.values())) for slot, tree in rule.init({"x": x}).items()})
            ages.setdefault(int(own["step"]), []).append(x)
        return list(ages.values())

    def _advance(self, rule: Rule, members: list[Tensor], factor: float) -> None:
        params = {str(i): x for i, x in enumerate(members)}
        grads = {name: x.grad for name, x in params.items() if x.grad is not None}
        state: State = {
            slot: {name: self.state[x][slot] for name, x in params.items()} for slot in self.state[members[0]]
        }
        state["step"] = {"count": state["step"]["0"]}
        updates, new = rule.update(grads, state, params)
        count = new.pop("step")["count"]
        for name, x in params.items():
            x.add_(updates[name] if factor == 1.0 else updates[name] * factor)
            self.state[x] = {slot: tree[name] for slot, tree in new.items()} | {"step": count}


def _one_number(key: str, value: Any) -> Any:
    """Give a group's setting; what changes over steps or over stacked copies must stand in a rule instead."""
    if isinstance(value, Tensor) and value.ndim == 0:
        return value.item()
    if callable(value) or isinstance(value, Tensor):
        raise HyperparameterError(
            f"{key} of a parameter group must be one number; make the rule with it and pass the rule:"
            f" as_torch_optimizer(make_rule(name, {key}=...), params)"
        )
    return value
