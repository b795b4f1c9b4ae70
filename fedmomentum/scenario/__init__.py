"""Scenarios: the YAML schema, its loader and its sweeps.

    >>> loaded = load("quickstart", ["rounds=3", "client.optimizer.lr=1e-2"])
    >>> [arm.name for arm in loaded.arms]
    ['FedAvg', 'FedAvgM']

Needs neither torch, ray nor flwr. Every fault of a file is told at once, as ``file:line:column: path: message``.
"""

from fedmomentum.scenario.describe import describe, schema_json
from fedmomentum.scenario.dump import as_yaml
from fedmomentum.scenario.expect import Claim, Expectation, check_expectations
from fedmomentum.scenario.faults import Fault, ScenarioError
from fedmomentum.scenario.federated import FederatedScenario
from fedmomentum.scenario.load import Arm, LoadedScenario, load
from fedmomentum.scenario.read import questions, shipped
from fedmomentum.scenario.scenario import Scenario, Sweep
from fedmomentum.scenario.shape import KINDS, choices

__all__ = [
    "KINDS",
    "Arm",
    "Claim",
    "Expectation",
    "Fault",
    "FederatedScenario",
    "LoadedScenario",
    "Scenario",
    "ScenarioError",
    "Sweep",
    "as_yaml",
    "check_expectations",
    "choices",
    "describe",
    "load",
    "questions",
    "schema_json",
    "shipped",
]
