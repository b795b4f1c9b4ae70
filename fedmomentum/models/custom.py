"""The user's own model, named as ``package.module:callable``."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any

from fedmomentum.errors import UserError


def import_factory(path: str) -> Callable[..., Any]:
    """Import what ``package.module:callable`` names; the callable may be an attribute of a class (``mod:Class.make``).

    Raises:
        UserError: the module or the attribute does not exist, or is not callable. What fails *inside* the module is
            raised as it is: it is the user's own traceback.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise UserError(f"model '{path}' must be written 'package.module:callable'")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that the user's own module fails to import is another fault, with another remedy.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"model '{path}': there is no module '{error.name}' (is its folder on PYTHONPATH, or installed?)"
        ) from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            guess = f"; did you mean '{near[0]}'?" if near else ""
            raise UserError(f"model '{path}': module '{module_name}' has no '{attribute}'{guess}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"model '{path}': '{attribute}' is a {type(found).__name__}, which cannot be called")
    factory: Callable[..., Any] = found
    return factory
