"""Strategies by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from fedmomentum.errors import UserError
from fedmomentum.strategies.adaptive import FedAdagrad, FedAdam, FedAdamW, FedYogi
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
from fedmomentum.strategies.fedopt import FedOpt
from fedmomentum.strategies.fedpa import FedPA
from fedmomentum.strategies.fedprox import FedProx
from fedmomentum.strategies.fedsghmc import FedSGHMC
from fedmomentum.strategies.fsgld import FSGLD
from fedmomentum.strategies.mime import Mime, MimeLite
from fedmomentum.strategies.qlsd import QLSD
from fedmomentum.strategies.scaffold import Scaffold
from fedmomentum.strategies.slowmo import SlowMo

STRATEGIES: dict[str, type[FedAvg]] = {
    cls.__name__.lower(): cls
    for cls in (
        *(FedAvg, FedAvgM, FedAdagrad, FedAdam, FedAdamW, FedYogi, FedOpt),
        *(FedProx, SlowMo, FedGM, FedExP, Scaffold, FedCM, MimeLite, Mime),
        *(FedDyn, FedNova, FedADC, FedNAG, DOMO, FedBN),
        *(FedSGHMC, FALD, FSGLD, DGLMC, QLSD, FedPA),
    )
}
"""Lowercase name -> class."""


def make_strategy(name: str, **options: Any) -> FedAvg:
    """Give the strategy of a name, such as ``make_strategy("fedavgm", server_momentum=0.9)``.

    Args:
        name: a key of :data:`STRATEGIES`, in any case.
        options: parameters of the class.

    Raises:
        UserError: there is no such strategy, or it has no such option; the message suggests the near one.
        ValueError: an option is out of range.
    """
    cls = STRATEGIES.get(name.lower())
    if cls is None:
        raise UserError(f"there is no strategy '{name}'; {_hint(name.lower(), STRATEGIES)}")
    known = [f.name for f in fields(cls) if f.init]
    for option in options:
        if option not in known:
            raise UserError(f"strategy '{name}' has no option '{option}'; {_hint(option, known)}")
    return cls(**options)


def _hint(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names)}"
