"""Rules by name, for scenarios and for everything that has a name and numbers but no Python."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from fedmomentum.optim.adaptive import adagrad, adam, adamw, yogi
from fedmomentum.optim.hyper import HyperparameterError, unknown
from fedmomentum.optim.pid import pid
from fedmomentum.optim.rms import rmsprop
from fedmomentum.optim.rule import Rule
from fedmomentum.optim.sign import lion
from fedmomentum.optim.velocity import ema, heavy_ball, nesterov, sgd

RULES: Mapping[str, Callable[..., Rule]] = MappingProxyType(
    {
        "sgd": sgd,
        "heavy_ball": heavy_ball,
        "ema": ema,
        "nesterov": nesterov,
        "adagrad": adagrad,
        "rmsprop": rmsprop,
        "adam": adam,
        "adamw": adamw,
        "yogi": yogi,
        "lion": lion,
        "pid": pid,
    }
)
"""Name -> factory."""


def hyperparameters(name: str) -> dict[str, Any]:
    """Give the hyperparameters that a rule takes, with their defaults (``inspect.Parameter.empty``: it has none).

    Raises:
        HyperparameterError: there is no such rule; the message gives the near name.
    """
    if name not in RULES:
        raise unknown("rule", name, RULES)
    return dict(_signature(name))


@cache
def _signature(name: str) -> Mapping[str, Any]:
    return {key: parameter.default for key, parameter in inspect.signature(RULES[name]).parameters.items()}


def make_rule(name: str, **hyper: Any) -> Rule:
    """Make a rule of a name and hyperparameters.

    Example:
        >>> rule = make_rule("heavy_ball", lr=0.1, momentum=0.9)

    Raises:
        HyperparameterError: no such rule or hyperparameter (the message gives the near name), one without a default
            is missing, or one is out of range.
    """
    known = hyperparameters(name)
    for key in hyper:
        if key not in known:
            raise unknown(f"hyperparameter of '{name}'", key, known)
    for key, default in known.items():
        if default is inspect.Parameter.empty and key not in hyper:
            raise HyperparameterError(f"'{name}' needs {key}")
    return RULES[name](**hyper)
