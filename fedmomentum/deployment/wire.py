"""The events of a deployed run as lines of its log, which is what Flower brings from a server app to who follows it."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fedmomentum.events import End, Failure, RoundEnd, Span, Start
from fedmomentum.runs.folder import MODEL, RunFolder

MARK = "fedmomentum-event "
"""Begins an event in a line of the log; what stands before it belongs to somebody else."""
CHUNK = 48 * 1024
"""Bytes of a model in a line."""


def write_line(text: str) -> None:
    """Write one line in one piece: other threads write to the log too."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Announcer:
    """A listener that writes what happens into the log, numbered, and the model of each arm at its end.

    Args:
        followed: whether a program reads it; otherwise people do, and get a sentence for each event.
        folder: of the run, where the models are.
        largest: bytes up to which a model is sent.
        write: takes a line.
    """

    def __init__(
        self,
        folder: RunFolder | None = None,
        *,
        followed: bool = True,
        largest: int = 0,
        write: Callable[[str], None] = write_line,
    ) -> None:
        """Begin with number 0."""
        self.folder, self.followed, self.largest, self._write = folder, followed, largest, write
        self._number = 0

    def tell(self, kind: str, **values: Any) -> None:
        """Write one event."""
        if not self.followed:
            if text := _sentence(kind, values):
                self._write(text)
            return
        self._write(MARK + json.dumps({"number": self._number, "kind": kind, **values}, separators=(",", ":")))
        self._number += 1

    def say(self, text: str) -> None:
        """Write a sentence for people."""
        self.tell("say", text=text)

    def start(self, event: Start) -> None:
        """Write that an arm begins."""
        self.tell("start", event=asdict(event))

    def round_end(self, event: RoundEnd) -> None:
        """Write what a round gave."""
        self.tell("round", event=asdict(replace(event, spans=())))

    def end(self, event: End) -> None:
        """Write the model of an arm, and that it has ended."""
        if self.folder is not None and self.followed:
            path = self.folder.arm(event.arm).path / MODEL
            size = path.stat().st_size if path.exists() else 0
            if size > self.largest:
                text = f"the model has {size / 2**20:.0f} MiB and stays with the server: {path} (send-model)"
                self.tell("stays", arm=event.arm, path=str(path), text=text)
            elif size:
                for values in chunks(path.read_bytes()):
                    self.tell("model", arm=event.arm, **values)
        self.tell("end", event=asdict(event))


def _sentence(kind: str, values: Mapping[str, Any]) -> str:
    """Give an event in words; empty where there is nothing to say."""
    event = values.get("event", {})
    arm = f"{event['arm']}: " if event.get("arm") else ""
    if kind == "round":
        numbers = [f"{key} {event['metrics'][key]:.4g}" for key in _SHOWN if key in event["metrics"]]
        return f"{arm}round {event['round']}/{event['rounds']}  {'  '.join(numbers)}"
    if kind == "end":
        return f"{arm}{event['status']} after {event['rounds_done']} rounds. {event['message']}".rstrip()
    if kind == "done":
        return f"{values['status']}. {values['message']}".strip() + f" Run folder on this server: {values['folder']}"
    return str(values.get("text", ""))


_SHOWN = ("accuracy", "loss", "train_loss", "replies", "failures", "seconds")


def chunks(data: bytes) -> Iterator[dict[str, Any]]:
    """Cut a model into pieces that :class:`Assembled` puts together again."""
    digest, parts = hashlib.sha256(data).hexdigest(), range(0, len(data), CHUNK)
    for position, begin in enumerate(parts):
        piece = base64.b64encode(data[begin : begin + CHUNK]).decode("ascii")
        yield {"part": position, "parts": len(parts), "sha256": digest, "data": piece}


class Assembled:
    """A model that comes in pieces."""

    def __init__(self) -> None:
        """Begin with none."""
        self._parts: dict[int, bytes] = {}

    def add(self, values: Mapping[str, Any]) -> bytes | None:
        """Take a piece; give the model when it is whole.

        Raises:
            ValueError: its checksum is another one.
        """
        self._parts[int(values["part"])] = base64.b64decode(values["data"])
        if len(self._parts) < int(values["parts"]):
            return None
        data = b"".join(self._parts[i] for i in range(int(values["parts"])))
        if hashlib.sha256(data).hexdigest() != values["sha256"]:
            raise ValueError("the model that came through the log is damaged")
        return data


def read_event(line: str) -> dict[str, Any] | None:
    """Give the event in a line of the log; None where there is none."""
    at = line.find(MARK)
    if at < 0:
        return None
    try:
        event = json.loads(line[at + len(MARK) :])
    except ValueError:
        return None  # a line that was cut, as when the server was killed while it wrote
    return event if isinstance(event, dict) and "kind" in event and "number" in event else None


def as_start(values: Mapping[str, Any]) -> Start:
    """Give the event that an arm begins."""
    return Start(**values)


def as_round(values: Mapping[str, Any]) -> RoundEnd:
    """Give the event that a round is done."""
    failures = tuple(Failure(**failure) for failure in values["failures"])
    spans = tuple(Span(**span) for span in values["spans"])
    return RoundEnd(**{**values, "failures": failures, "spans": spans})


def as_end(values: Mapping[str, Any]) -> End:
    """Give the event that an arm has ended."""
    return End(**values)


def save_model(folder: RunFolder, arm: str, data: bytes) -> Path:
    """Write a model into the folder of its arm."""
    path = folder.arm(arm).path / MODEL
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
    return path
