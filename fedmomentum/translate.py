"""From blocks of a scenario to the arguments of what they name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedmomentum.build_data import options
from fedmomentum.optim.schedules import make_schedule


def optimizer(block: Any) -> dict[str, Any]:
    """Give the settings of an optimizer as :func:`fedmomentum.optim.make_rule` takes them, its name among them."""
    wanted, name = options(block), block.name
    if "betas" in wanted:
        wanted["beta1"], wanted["beta2"] = wanted.pop("betas")
    if name == "adamw":  # decoupled is what the W stands for: with l2 decay it is Adam
        name = "adamw" if wanted.pop("decay") == "decoupled" else "adam"
    return {"name": name, **({"decay": "l2"} if name == "adam" else {}), **wanted}


def model_options(block: Any) -> dict[str, Any]:
    """Give the options of a model, those of the user's own among them."""
    return options(block, "options") | dict(getattr(block, "options", None) or {})


def factor(schedule: Any) -> Callable[[int], float] | None:
    """Give round (from 0) -> factor on the learning rate; None where it stays 1."""
    wanted = options(schedule)
    if "rounds" in wanted:
        wanted["steps"] = wanted.pop("rounds")
    return (
        None
        if schedule.name == "constant" and not wanted["warmup"]
        else make_schedule(schedule.name, value=1.0, **wanted)
    )
