"""From the ``data`` block of a scenario to the federated data; needs no torch, so a real client answers quickly."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from fedmomentum.data import DATASETS, Dataset, FeatureShift, FederatedData, load, partition

if TYPE_CHECKING:
    from fedmomentum.scenario import FederatedScenario


def options(model: Any, *leave_out: str) -> dict[str, Any]:
    """Give the settings of a block of a scenario but its name, as keyword arguments; null is left to the default."""
    return {k: v for k, v in model.model_dump(exclude={"name", *leave_out}).items() if v is not None}


def build_data(scenario: FederatedScenario, cache: dict[str, Dataset] | None = None) -> tuple[FederatedData, str]:
    """Load the data set, give each client its part, and give the data set's checksum."""
    settings = scenario.data
    wanted = options(settings, "partition", "validation", "shift")
    key = f"{settings.name}:{sorted(wanted.items())}:{scenario.seed}"
    cache = cache if cache is not None else {}
    if key not in cache:
        seeded = "seed" in inspect.signature(DATASETS[settings.name]).parameters
        cache[key] = load(settings.name, **wanted, **({"seed": scenario.seed} if seeded else {}))
    dataset = cache[key]
    parts = options(settings.partition)
    split = partition(
        settings.partition.name,
        labels=dataset.y,
        groups=dataset.groups,
        clients=parts.pop("clients", None),
        seed=scenario.seed,
        **parts,
    )
    shift = settings.shift
    moved = shift is not None and any(options(shift).values())
    lens = FeatureShift(**options(shift), seed=scenario.seed) if moved else None
    data = FederatedData.build(dataset, split, validation=settings.validation, shift=lens, seed=scenario.seed)
    return data, dataset.checksum
