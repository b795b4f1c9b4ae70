"""The state of a strategy that cannot say what it is: its attributes, where they are plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy


def collect(strategy: Strategy) -> dict[str, Any]:
    """Give the attributes of a strategy as plain data; a strategy that it wraps is one of them, functions are none.

    Raises:
        TypeError: an attribute is neither numbers, text, arrays, records of arrays, nor lists or dicts of these.
    """
    return {name: _plain(value, name) for name, value in vars(strategy).items() if not _is_function(value)}


def restore(strategy: Strategy, state: Mapping[str, Any]) -> None:
    """Set the attributes that :func:`collect` gave; of a strategy that is wrapped, in place."""
    for name, value in state.items():
        if isinstance(value, Mapping) and "strategy" in value:
            restore(getattr(strategy, name), value["strategy"])
        else:
            setattr(strategy, name, _back(value))


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, Strategy)


def _plain(value: Any, path: str) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(np.array(value, order="C"))}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, ArrayRecord):
        return {"record": {name: torch.from_numpy(np.array(x.numpy(), order="C")) for name, x in value.items()}}
    if isinstance(value, Strategy):
        return {"strategy": collect(value)}
    if isinstance(value, list | tuple):
        return {"list": [_plain(item, f"{path}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, Mapping) and all(isinstance(key, str | int) for key in value):
        return {"dict": {key: _plain(item, f"{path}[{key!r}]") for key, item in value.items()}}
    raise TypeError(f"{path} is a {type(value).__name__}, which is no plain data")


def _back(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    ((kind, held),) = value.items()
    if kind == "array":
        return held.numpy().copy()
    if kind == "record":
        return ArrayRecord({name: Array(x.numpy()) for name, x in held.items()})
    if kind == "list":
        return [_back(item) for item in held]
    return {key: _back(item) for key, item in held.items()}
