"""Momentum and adaptive rules as pairs of pure functions, for one model or many at once.

A rule turns gradients into additive updates and carries a state; nothing is changed in place:

    rule = make_rule("heavy_ball", lr=0.1, momentum=0.9)
    state = rule.init(params)
    updates, state = rule.update(grads, state, params)
    params = trees.add(params, updates)

K stacked copies use the same rule, with one number for all or one a copy:

    rule = adam(lr=torch.tensor([1e-3, 3e-3, 1e-2]))
    state = expand_state(rule.init(params), 3)  # gradients and parameters now are [3, *shape]

Step sizes may be schedules (``lr=make_schedule("cosine", value=0.1, steps=1000, warmup=20)``), gradients may pass
through transforms (``chain(clip_by_norm(1.0), rule)``), and ``as_torch_optimizer`` makes a torch optimizer of any rule.
"""

from fedmomentum.optim.adaptive import adagrad, adam, adamw, yogi
from fedmomentum.optim.hyper import Hyper, HyperparameterError, Schedule
from fedmomentum.optim.pid import pid
from fedmomentum.optim.registry import RULES, hyperparameters, make_rule
from fedmomentum.optim.rms import rmsprop
from fedmomentum.optim.rule import Rule, expand_state
from fedmomentum.optim.schedules import SCHEDULES, Constant, Cosine, StepDecay, Warmup, make_schedule
from fedmomentum.optim.sign import lion
from fedmomentum.optim.torch_adapter import RuleOptimizer, as_torch_optimizer
from fedmomentum.optim.transforms import chain, clip_by_norm, clip_by_value
from fedmomentum.optim.velocity import ema, heavy_ball, nesterov, sgd

__all__ = [
    "RULES",
    "SCHEDULES",
    "Constant",
    "Cosine",
    "Hyper",
    "HyperparameterError",
    "Rule",
    "RuleOptimizer",
    "Schedule",
    "StepDecay",
    "Warmup",
    "adagrad",
    "adam",
    "adamw",
    "as_torch_optimizer",
    "chain",
    "clip_by_norm",
    "clip_by_value",
    "ema",
    "expand_state",
    "heavy_ball",
    "hyperparameters",
    "lion",
    "make_rule",
    "make_schedule",
    "nesterov",
    "pid",
    "rmsprop",
    "sgd",
    "yogi",
]
