"""Find and read the file of a scenario: a path, or the name of one that comes with the package."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from fedmomentum.scenario.faults import Fault, ScenarioError, did_you_mean, nearest
from fedmomentum.scenario.tree import Unreadable, parse

MOST_BYTES = 1 << 20
"""Size of a scenario file, at most."""


def shipped() -> dict[str, Path]:
    """Give the scenarios that come with the package: name -> file."""
    folder = Path(str(resources.files("fedmomentum.scenarios")))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def questions() -> dict[str, str]:
    """Give what each shipped scenario asks: name -> question."""
    return {name: _question(file) for name, file in shipped().items()}


def _question(file: Path) -> str:
    try:
        node = parse(read(file))[0].child("question")
    except (ScenarioError, Unreadable):
        return ""  # someone is editing it; `validate` says what is wrong
    return node.value if node is not None and isinstance(node.value, str) else ""


def find(path: str | os.PathLike[str]) -> Path:
    """Give the file that a path or the name of a shipped scenario means; a file comes before a name, a folder after it.

    Raises:
        ScenarioError: there is neither; the message names what is near.
    """
    text = os.fspath(path)
    file, known = Path(text), shipped()
    if not text:  # a shell's variable that is not set; as a path it would be this folder
        raise ScenarioError([Fault("''", None, None, "", "names no scenario; give a YAML file or a shipped name")])
    try:
        if file.exists() and not (text in known and file.is_dir()):
            return file
        beside = [entry.name for entry in file.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    except (OSError, ValueError):  # a name that no file can have, or a folder that is not there
        beside = []
    if text in known:
        return known[text]
    if (name := nearest(file.name, beside)) is not None:
        guess = f"; did you mean '{file.parent / name}'?"
    else:
        guess = did_you_mean(file.stem, known) or "."
    raise ScenarioError([Fault(text, None, None, "", f"no such file{guess} Shipped scenarios: {', '.join(known)}")])


def read(file: Path) -> str:
    """Give the text of a scenario file.

    Raises:
        ScenarioError: it is a folder, too long, not UTF-8, or cannot be read.
    """
    name = os.fspath(file)
    if file.is_dir():
        raise ScenarioError([Fault(name, None, None, "", "is a folder; a scenario is one YAML file")])
    try:
        with file.open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise ScenarioError([Fault(name, None, None, "", f"cannot be read: {error.strerror}")]) from error
    if len(raw) > MOST_BYTES:
        raise ScenarioError([Fault(name, None, None, "", "is longer than 1 MiB; this is no scenario")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = raw.rfind(b"\n", 0, error.start) + 1
        line = raw.count(b"\n", 0, error.start) + 1
        column = len(raw[start : error.start].decode("utf-8", "replace")) + 1
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ScenarioError([Fault(name, line, column, "", message)]) from None
