"""Scenarios that are no federated training: an analogy, an optimizer on a problem, a sampler.

    experiment = make(load("spring").scenario)
    rows = list(experiment.rows())

Each kind is a module with a class and a function ``draw``; ``docs/architecture.md`` has the protocol. They are imported
when they are used: an analogy needs neither flwr nor ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmomentum.experiments.experiment import Experiment, Kind
    from fedmomentum.scenario.shape import AnyScenario

__all__ = ["MODULES", "kind_of", "make"]

MODULES = {
    "analogy": "fedmomentum.experiments.analogy",
    "optimize": "fedmomentum.experiments.optimize",
    "sample": "fedmomentum.experiments.sample",
}
"""``kind`` of a scenario -> module that holds its ``KIND``. A further kind is a further entry."""


def kind_of(scenario: AnyScenario) -> Kind:
    """Give what runs and draws a scenario."""
    found: Kind = import_module(MODULES[scenario.kind]).KIND
    return found


def make(scenario: AnyScenario) -> Experiment:
    """Make the experiment that a scenario describes.

    Raises:
        UserError: something that the scenario names does not exist or does not fit.
    """
    return kind_of(scenario).make(scenario)
