"""What is wrong with a scenario, and where: every fault names its place, and all of them are told at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedmomentum.errors import UserError


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        file: the scenario file as the user named it, or the override (``--set client.epochs=x``).
        line: counted from 1; None where there is no line, as in an override or for a file that cannot be read.
        column: counted from 1; None where there is no line.
        path: of the setting, such as ``client.optimizer.lr``; empty for the scenario as a whole.
        message: what is wrong and what would be right.
    """

    file: str
    line: int | None
    column: int | None
    path: str
    message: str

    def __str__(self) -> str:
        """Write ``file:line:column: path: message``."""
        place = self.file if self.line is None else f"{self.file}:{self.line}:{self.column}"
        return ": ".join(part for part in (place, self.path, self.message) if part)


class ScenarioError(UserError):
    """A scenario cannot be used; ``faults`` holds everything that is wrong with it, in the order of the file."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        """Put the faults in the order of the file, each once; those without a line come last."""
        ordered = sorted(dict.fromkeys(faults), key=lambda f: (f.line is None, f.line or 0, f.column or 0))
        self.faults = tuple(ordered)
        super().__init__(self.faults)  # the only argument, so that a copy or a pickle is whole

    def __str__(self) -> str:
        """Write one fault a line."""
        return "\n".join(str(fault) for fault in self.faults)


def nearest(wrong: str, known: Iterable[str]) -> str | None:
    """Give the known name that is nearest to a wrong one, if any is near; case does not count."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(wrong.lower()[:80], by_lower, n=1, cutoff=0.6)
    return by_lower[near[0]] if near else None


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Give ``; did you mean 'x'?`` with the nearest known name, or nothing."""
    near = nearest(wrong, known)
    return f"; did you mean '{near}'?" if near else ""


def write_path(path: Sequence[str | int]) -> str:
    """Write the path of a setting: ``expect[0].arm``; a key that is no plain word is quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        word = part if part.replace("_", "a").replace("-", "a").isalnum() else show(part)
        text += f".{word}" if text else word
    return text


def show(value: object) -> str:
    """Write a value for a message as YAML has it, shortened, on one line."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"
