"""Client halves by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from fedmomentum.clients.compressed import qlsd
from fedmomentum.clients.drift import feddyn, fedprox, scaffold
from fedmomentum.clients.guided import domo, fedadc, fedcm, mime, mimelite
from fedmomentum.clients.langevin import dglmc, fald, fsgld
from fedmomentum.clients.local import LocalUpdate, local_sgd
from fedmomentum.clients.posterior import fedpa
from fedmomentum.clients.reports import fedexp, fednag, fednova, fedsghmc
from fedmomentum.errors import UserError
from fedmomentum.optim.rule import Rule

LOCAL_UPDATES: Mapping[str, Callable[..., LocalUpdate]] = MappingProxyType(
    {
        "local_sgd": local_sgd,
        "fedprox": fedprox,
        "scaffold": scaffold,
        "feddyn": feddyn,
        "fedcm": fedcm,
        "fedadc": fedadc,
        "mime": mime,
        "mimelite": mimelite,
        "domo": domo,
        "fedexp": fedexp,
        "fednova": fednova,
        "fednag": fednag,
        "fald": fald,
        "fsgld": fsgld,
        "dglmc": dglmc,
        "qlsd": qlsd,
        "fedpa": fedpa,
        "fedsghmc": fedsghmc,
    }
)
"""Name -> factory; each takes the client's rule and its own keyword options."""


def make_local(name: str, rule: Rule, **options: Any) -> LocalUpdate:
    """Make a client half of a name, the client's rule and the method's options.

    Raises:
        UserError: there is no such method, it has no such option, or an option or the rule does not suit it.
    """
    if name not in LOCAL_UPDATES:
        raise UserError(f"there is no client method '{name}'; {_hint(name, LOCAL_UPDATES)}")
    known = list(inspect.signature(LOCAL_UPDATES[name]).parameters)[1:]
    for option in options:
        if option not in known:
            raise UserError(f"client method '{name}' has no option '{option}'; {_hint(option, known)}")
    try:
        return LOCAL_UPDATES[name](rule, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"client method '{name}': {error}") from error


def _hint(name: str, known: Mapping[str, Any] | list[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names) or 'none'}"
