"""Every strategy that a scenario can name."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fedmomentum.scenario.algorithms import (
    DOMO,
    FedADC,
    FedBN,
    FedCM,
    FedDyn,
    FedExP,
    FedGM,
    FedNAG,
    FedNova,
    FedProx,
    Mime,
    MimeLite,
    Scaffold,
    SlowMo,
)
from fedmomentum.scenario.block import ByName
from fedmomentum.scenario.posterior import DGLMC, FALD, FSGLD, QLSD, FedPA, FedSGHMC
from fedmomentum.scenario.server import (
    CustomStrategy,
    FedAdagrad,
    FedAdam,
    FedAdamW,
    FedAvg,
    FedAvgM,
    FedOpt,
    FedYogi,
)

Strategy: TypeAlias = Annotated[
    FedAvg
    | FedAvgM
    | FedAdagrad
    | FedAdam
    | FedYogi
    | FedAdamW
    | FedOpt
    | SlowMo
    | FedGM
    | FedExP
    | FedProx
    | Scaffold
    | FedDyn
    | FedCM
    | FedADC
    | DOMO
    | MimeLite
    | Mime
    | FedNova
    | FedNAG
    | FedBN
    | FedSGHMC
    | FALD
    | FSGLD
    | DGLMC
    | QLSD
    | FedPA
    | CustomStrategy,
    ByName(),
]
