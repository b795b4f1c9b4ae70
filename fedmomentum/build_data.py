"""From the ``data`` block of a scenario to the federated data; needs no torch, so a real client answers quickly."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from fedmomentum.data import (
    DATASETS,
    Dataset,
    FeatureShift,
    FederatedData,
    Partition,
    from_flwr_datasets,
    load,
    partition,
)
from fedmomentum.errors import UserError

if TYPE_CHECKING:
    from fedmomentum.scenario import FederatedScenario


def options(model: Any, *leave_out: str) -> dict[str, Any]:
    """Give the settings of a block of a scenario but its name, as keyword arguments; null is left to the default."""
    return {k: v for k, v in model.model_dump(exclude={"name", *leave_out}).items() if v is not None}


def load_dataset(settings: Any, seed: int) -> Dataset:
    """Load the data set of a ``data`` block; one that is made at random is made of the seed."""
    seeded = "seed" in inspect.signature(DATASETS[settings.name]).parameters
    wanted = options(settings, "partition", "validation", "shift")
    return load(settings.name, **wanted, **({"seed": seed} if seeded else {}))


def build_data(scenario: FederatedScenario, cache: dict[str, Dataset] | None = None) -> tuple[FederatedData, str]:
    """Load the data set, give each client its part, and give the data set's checksum."""
    settings = scenario.data
    wanted = options(settings, "partition", "validation", "shift")
    key = f"{settings.name}:{sorted(wanted.items())}:{scenario.seed}"
    cache = cache if cache is not None else {}
    if key not in cache:
        cache[key] = load_dataset(settings, scenario.seed)
    dataset = cache[key]
    split = split_of(settings.partition, dataset, scenario.seed)
    shift = settings.shift
    moved = shift is not None and any(options(shift).values())
    lens = FeatureShift(**options(shift), seed=scenario.seed) if moved else None
    data = FederatedData.build(dataset, split, validation=settings.validation, shift=lens, seed=scenario.seed)
    return data, dataset.checksum


def split_of(settings: Any, dataset: Dataset, seed: int) -> Partition:
    """Give each client its part of a data set, by a partitioner of ours or of flwr-datasets.

    Raises:
        UserError: the partitioner cannot be imported or made, or cannot split the data.
    """
    name = settings.name
    if ":" not in name:
        parts = options(settings)
        clients = parts.pop("clients", None)
        return partition(name, labels=dataset.y, groups=dataset.groups, clients=clients, seed=seed, **parts)
    module, _, attribute = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), attribute)
        seeded = {"seed": seed} if "seed" in inspect.signature(make).parameters else {}
        partitioner = make(**{**seeded, **settings.options})
    except ModuleNotFoundError as error:
        hint = ": pip install 'fedmomentum[flwr-datasets]'" if module.startswith("flwr_datasets") else ""
        raise UserError(f"data.partition.name: '{name}' cannot be imported ({error}){hint}") from error
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"data.partition.name: '{name}' cannot be made: {error}") from error
    if not hasattr(partitioner, "load_partition"):
        raise UserError(f"data.partition.name: '{name}' gives a {type(partitioner).__name__}, which is no partitioner")
    return from_flwr_datasets(partitioner, dataset)
