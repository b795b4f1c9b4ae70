from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from fedmomentum.errors import UserError
from fedmomentum.events import End, RoundEnd, Start
from fedmomentum.trackers import TRACKERS, Guarded, make_tracker

EVENTS = [Start("s", 2), RoundEnd(1, 2, {}), RoundEnd(2, 2, {}), End("finished", 2)]


class Spy:
    """Notes what it hears and raises at one of the events."""

    def __init__(self, at: int | None = None, error: BaseException | None = None) -> None:
        self.heard: list[object] = []
        self.at, self.error = at, error

    def start(self, event: object) -> None:
        self.heard.append(event)
        if len(self.heard) - 1 == self.at and self.error is not None:
            raise self.error

    round_end = end = start


def play(listener: Any) -> None:
    listener.start(EVENTS[0])
    listener.round_end(EVENTS[1])
    listener.round_end(EVENTS[2])
    listener.end(EVENTS[3])


def test_events_are_passed_on() -> None:
    spy = Spy()
    guarded = Guarded("spy", spy)
    play(guarded)
    assert spy.heard == EVENTS and guarded.failure is None


@pytest.mark.parametrize("at", range(4))
def test_a_failure_costs_one_warning_and_the_rest_of_the_events(at: int, caplog: pytest.LogCaptureFixture) -> None:
    spy = Spy(at, OSError("disk\nis full"))
    guarded = Guarded("spy", spy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play(guarded)
        play(guarded)
    assert spy.heard == EVENTS[: at + 1]
    assert guarded.failure == "OSError: disk is full"
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in told] == [
        "tracker 'spy' failed and hears no more of this run: OSError: disk is full"
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_who_wants_to_stop_the_run_can(error: BaseException) -> None:
    with pytest.raises(type(error)):
        play(Guarded("spy", Spy(1, error)))


def test_names_and_options_that_there_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no 'tensorbord'; did you mean 'tensorboard'\? there are tensorboard, mlflow"):
        make_tracker("tensorbord", tmp_path)
    kind = TRACKERS["tensorboard"]
    monkeypatch.setitem(TRACKERS, "tensorboard", kind._replace(needs=()))
    with pytest.raises(UserError, match="'tensorboard' has no option logdir; it takes directory, histograms"):
        make_tracker("tensorboard", tmp_path, logdir="x")


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(UserError, match=rf"'{name}' needs {name}, .*: pip install 'fedmomentum\[{name}\]'"):
        make_tracker(name, tmp_path)


def test_trackers_load_nothing_before_one_is_asked_for(tmp_path: Path) -> None:
    heavy = {"torch", "numpy", "yaml", *TRACKERS}
    code = f"import sys, fedmomentum.trackers; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_extras_are_those_of_the_package() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert TRACKERS.keys() <= project["optional-dependencies"].keys()
