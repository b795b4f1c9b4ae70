"""Server halves: Flower Strategy classes.

They take Flower's parameters under Flower's names, so in a Flower app changing the import is enough:

    from fedmomentum.strategies import FedAvgM
    strategy = FedAvgM(fraction_train=0.1, server_momentum=0.9, form="nesterov", seed=1)
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=10)
"""

from __future__ import annotations

from fedmomentum.strategies.adaptive import FedAdagrad, FedAdam, FedAdamW, FedYogi
from fedmomentum.strategies.cohort import BernoulliCohort, Cohort, CyclicCohort, UniformCohort, WeightedCohort
from fedmomentum.strategies.dglmc import DGLMC
from fedmomentum.strategies.domo import DOMO
from fedmomentum.strategies.fald import FALD
from fedmomentum.strategies.fedadc import FedADC
from fedmomentum.strategies.fedavg import FedAvg
from fedmomentum.strategies.fedavgm import FedAvgM
from fedmomentum.strategies.fedbn import FedBN
from fedmomentum.strategies.fedcm import FedCM
from fedmomentum.strategies.feddyn import FedDyn
from fedmomentum.strategies.fedexp import FedExP
from fedmomentum.strategies.fedgm import FedGM
from fedmomentum.strategies.fednag import FedNAG
from fedmomentum.strategies.fednova import FedNova
from fedmomentum.strategies.fedopt import FedOpt, ServerOptimizer
from fedmomentum.strategies.fedpa import FedPA
from fedmomentum.strategies.fedprox import FedProx
from fedmomentum.strategies.fedsghmc import FedSGHMC
from fedmomentum.strategies.foreign import Foreign
from fedmomentum.strategies.fsgld import FSGLD
from fedmomentum.strategies.mime import Mime, MimeLite
from fedmomentum.strategies.privacy import Privacy
from fedmomentum.strategies.qlsd import QLSD
from fedmomentum.strategies.registry import STRATEGIES, make_strategy
from fedmomentum.strategies.scaffold import Scaffold
from fedmomentum.strategies.slowmo import SlowMo

__all__ = [
    "DGLMC",
    "DOMO",
    "FALD",
    "FSGLD",
    "QLSD",
    "STRATEGIES",
    "BernoulliCohort",
    "Cohort",
    "CyclicCohort",
    "FedADC",
    "FedAdagrad",
    "FedAdam",
    "FedAdamW",
    "FedAvg",
    "FedAvgM",
    "FedBN",
    "FedCM",
    "FedDyn",
    "FedExP",
    "FedGM",
    "FedNAG",
    "FedNova",
    "FedOpt",
    "FedPA",
    "FedProx",
    "FedSGHMC",
    "FedYogi",
    "Foreign",
    "Mime",
    "MimeLite",
    "Privacy",
    "Scaffold",
    "ServerOptimizer",
    "SlowMo",
    "UniformCohort",
    "WeightedCohort",
    "make_strategy",
]
