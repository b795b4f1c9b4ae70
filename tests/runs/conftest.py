"""Run folders made by the real recorder, with curves that a test writes down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fedmomentum.events import End, RoundEnd, Start
from fedmomentum.runs import Recorder, RunFolder

Store = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Give a function that makes a run folder.

    ``arms`` maps names of arms to accuracies by round, or to whole rows; round 0 costs nothing, each later one
    100 bytes down, 50 up and 2 seconds. ``settings`` are the resolved scenario.
    """

    def make(
        arms: Mapping[str, Sequence[Any]],
        settings: Mapping[str, Any] | None = None,
        *,
        name: str = "quick",
        status: str = "finished",
        rounds: int | None = None,
        metric: str = "accuracy",
    ) -> Path:
        resolved = {"name": name, "seed": 0, **(settings or {})}
        folder = RunFolder.create(
            tmp_path / "runs", name, scenario_text=f"name: {name}\n", resolved=resolved, hash="0123456789abcdef"
        )
        recorder = Recorder(folder)
        for arm, values in arms.items():
            planned = len(values) - 1 if rounds is None else rounds
            recorder.start(Start(name, planned, arm=arm))
            for n, value in enumerate(values):
                row = dict(value) if isinstance(value, Mapping) else {"round": n, metric: value, "elapsed": 2.0 * n}
                if n and not isinstance(value, Mapping):
                    row |= {"bytes_down": 100, "bytes_up": 50}
                clients = {"client": [4.0, 7.0], "num-examples": [10.0, 20.0]} if n else {}
                recorder.round_end(RoundEnd(n, planned, row, clients, arm=arm))
            recorder.end(End(status, len(values) - 1, arm))
        folder.set_status(status)
        return folder.path

    return make
