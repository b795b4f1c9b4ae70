"""Flower's own command, which knows connections, logins and bundles: we start it and read what it prints."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fedmomentum.errors import UserError

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


def executable(name: str = "flwr") -> str:
    """Give the path of a command of Flower: the one beside this Python, else the one on the path.

    Raises:
        UserError: there is none.
    """
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise UserError(f"the command '{name}' is not there; it comes with Flower: pip install flwr")
    return found


def environment() -> dict[str, str]:
    """Give the environment of Flower's commands: no telemetry unless the user says so, and lines as they come."""
    return QUIET | dict(os.environ) | {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


def submit(app: Path, federation: str) -> int:
    """Send a Flower App to the SuperLink of a connection and give the id of its run.

    Raises:
        UserError: the connection does not exist, nobody answers there, or the app was refused.
    """
    answer = _json([executable(), "run", str(app), federation, "--format", "json"], federation)
    try:
        return int(answer["run-id"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"federation '{federation}': the run was not started: {answer}") from None


def status(run: int, federation: str) -> tuple[str, str]:
    """Give the status of a run in Flower's words (``running``, ``finished:completed``, ...) and its details.

    Raises:
        UserError: nobody answers, or there is no such run.
    """
    answer = _json([executable(), "list", federation, "--run-id", str(run), "--format", "json"], federation)
    for row in answer.get("runs", []):
        if row.get("run-id") == str(run):
            return str(row["status"]), str(row.get("status-details", ""))
    raise UserError(f"federation '{federation}': there is no run {run}")


def stop(run: int, federation: str) -> None:
    """Stop a run."""
    subprocess.run(
        [executable(), "stop", str(run), federation], env=environment(), capture_output=True, timeout=60, check=False
    )


class Log:
    """The log of a run as it comes, line by line; use it as a context."""

    def __init__(self, run: int, federation: str) -> None:
        """Begin to read at the first line."""
        self._process = subprocess.Popen(
            [executable(), "log", str(run), federation, "--stream"],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )

    def __enter__(self) -> Iterator[str]:
        """Give the lines; they end when the run does, or when the connection is lost."""
        output: IO[str] | None = self._process.stdout
        assert output is not None
        return iter(output)

    def __exit__(self, *_: object) -> None:
        """Read no more."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _json(command: list[str], federation: str) -> dict[str, Any]:
    try:
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"federation '{federation}': no answer within 120 s") from None
    start = done.stdout.find("{")
    try:
        answer = json.loads(done.stdout[start:]) if start >= 0 else {}
    except ValueError:
        answer = {}
    if done.returncode == 0 and answer.get("success", True) and answer:
        return answer if isinstance(answer, dict) else {}
    said = str(answer.get("error-message") or "").strip() or _last(done.stderr) or _last(done.stdout)
    raise UserError(f"federation '{federation}': {_plain(said) or f'flwr ended with {done.returncode}'}")


def _plain(text: str) -> str:
    """Give what Flower says in one line, without what it says before the thing itself."""
    text = " ".join(line.strip() for line in text.splitlines() if not line.startswith("Using SuperLink"))
    text = re.sub(r"An unexpected error occurred while reading the Flower configuration file \([^)]*\)\. ", "", text)
    if "SuperLink is unavailable" in text:
        text += " Is the SuperLink up, and do 'insecure' and 'root-certificates' say what it speaks?"
    return text.strip()


def _last(text: str) -> str:
    lines = [line.strip(" │╭╰─╮╯") for line in text.splitlines()]
    return " ".join(line for line in lines if line)[-400:]
