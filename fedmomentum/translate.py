"""From blocks of a scenario to the arguments of what they name."""

from __future__ import annotations

import inspect
from typing import Any


def options(block: Any, *leave_out: str) -> dict[str, Any]:
    """Give the settings of a block of a scenario but its name, as keyword arguments; null is left to the default."""
    return {k: v for k, v in block.model_dump(exclude={"name", *leave_out}).items() if v is not None}


def optimizer(block: Any) -> dict[str, Any]:
    """Give the settings of an optimizer as :func:`fedmomentum.optim.make_rule` takes them, its name among them."""
    wanted, name = options(block), block.name
    if "betas" in wanted:
        wanted["beta1"], wanted["beta2"] = wanted.pop("betas")
    if name == "adamw":  # decoupled is what the W stands for: with l2 decay it is Adam
        name = "adamw" if wanted.pop("decay") == "decoupled" else "adam"
    return {"name": name, **({"decay": "l2"} if name == "adam" else {}), **wanted}


def dataset(block: Any, seed: int) -> Any:
    """Load the data set of a ``data`` block; one that is made at random is made of the seed."""
    from fedmomentum.data import DATASETS, load

    seeded = "seed" in inspect.signature(DATASETS[block.name]).parameters
    wanted = options(block, "partition", "validation", "shift")
    return load(block.name, **wanted, **({"seed": seed} if seeded else {}))


def model_options(block: Any) -> dict[str, Any]:
    """Give the options of a model, those of the user's own among them."""
    return options(block, "options") | dict(getattr(block, "options", None) or {})
