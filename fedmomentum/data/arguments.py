"""What a user wrote: a name out of a registry, its options, and numbers that must lie in a range."""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from fedmomentum.errors import UserError

F = TypeVar("F", bound=Callable[..., object])


def suggest(wrong: str, known: Iterable[str]) -> str:
    """Give the end of a message about an unknown name: the near name if there is one, and all the names."""
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, n=1)
    return (f"did you mean '{near[0]}'? " if near else "") + f"known: {', '.join(names) or 'none'}"


def choose(kind: str, registry: Mapping[str, F], name: str) -> F:
    """Give the function registered as ``name``.

    Raises:
        UserError: there is no such name; the message suggests the nearest and lists them all.
    """
    try:
        return registry[name]
    except KeyError:
        raise UserError(f"no {kind} is called '{name}'; {suggest(name, registry)}") from None


def check_options(
    kind: str, name: str, function: Callable[..., object], options: Mapping[str, Any], supplied: Collection[str] = ()
) -> None:
    """Refuse options that ``function`` does not take, and the lack of one that it cannot do without.

    Args:
        kind: what is being made ("data set", "partition"), for the message.
        name: its registered name, for the message.
        function: called later with ``options`` as keyword arguments.
        options: what the user gave.
        supplied: arguments that the caller fills in, which are not the user's to give.

    Raises:
        UserError: names the option and those there are.
    """
    parameters = {key: p for key, p in inspect.signature(function).parameters.items() if key not in supplied}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in parameters:
                raise UserError(f"{kind} '{name}' has no option '{option}'; {suggest(option, parameters)}")
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY and option not in options:
            raise UserError(f"{kind} '{name}' needs the option '{option}'")


def real(
    where: str, option: str, value: object, *, above: float = -math.inf, least: float = -math.inf,
    below: float = math.inf, most: float = math.inf,
) -> float:  # fmt: skip
    """Give ``value`` as a finite float in the stated range.

    Args:
        where: what the option belongs to ("partition 'dirichlet'").
        option: its name.
        value: what the user gave.
        above: the value must be greater than this.
        least: the value must be this or greater.
        below: the value must be less than this.
        most: the value must be this or less.

    Raises:
        UserError: names the option, its value, and the range.
    """
    fine = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if fine and above < value < below and least <= value <= most:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    bounds = [(">", above), (">=", least), ("<", below), ("<=", most)]
    wanted = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if math.isfinite(bound))
    raise UserError(f"{where}: {option} = {value!r} must be a finite number{' ' if wanted else ''}{wanted}")


def whole(where: str, option: str, value: object, *, least: int = 0, most: int | None = None) -> int:
    """Give ``value`` as an int of at least ``least`` and at most ``most``.

    Raises:
        UserError: names the option, its value, and the range.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        number = int(value)
        if number >= least and (most is None or number <= most):
            return number
    upper = "" if most is None else f" and <= {most}"
    raise UserError(f"{where}: {option} = {value!r} must be a whole number >= {least}{upper}")
