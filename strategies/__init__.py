"""Server halves: Flower Strategy classes.

They take Flower's parameters under Flower's names, so in a Flower app changing the import is enough:

    from fedmomentum.strategies import FedAvgM
    strategy = FedAvgM(fraction_train=0.1, server_momentum=0.9, form="nesterov", seed=1)
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=10)
"""

from __future__ import annotations

from fedmomentum.strategies.adaptive import FedAdagrad, FedAdam, FedAdamW, FedYogi
from fedmomentum.strategies.cohort import BernoulliCohort, Cohort, CyclicCohort, UniformCohort, WeightedCohort
from fedmomentum.strategies.fedavg import FedAvg
from fedmomentum.strategies.fedavgm import FedAvgM
from fedmomentum.strategies.fedopt import FedOpt, ServerOptimizer
from fedmomentum.strategies.registry import STRATEGIES, make_strategy

__all__ = [
    "STRATEGIES",
    "BernoulliCohort",
    "Cohort",
    "CyclicCohort",
    "FedAdagrad",
    "FedAdam",
    "FedAdamW",
    "FedAvg",
    "FedAvgM",
    "FedOpt",
    "FedYogi",
    "ServerOptimizer",
    "UniformCohort",
    "WeightedCohort",
    "make_strategy",
]
