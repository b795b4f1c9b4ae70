"""The runner of experiments: rows, findings, stopping, going on, and faults before anything is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from fedmomentum import api, experiments, scenario
from fedmomentum.course import Result
from fedmomentum.errors import UserError
from fedmomentum.experiments.experiment import Drawn, Kind
from fedmomentum.interrupts import StopAfterRound
from fedmomentum.runs import load_run

TEXT = "kind: analogy\nquestion: How far?\nsystem: {name: spring}\narms: {a: {}, b: {seed: 1}}\n"


class Walk:
    """Counts up by a number that depends on the seed; can go on from its state."""

    steps = 6

    def __init__(self, settings: Any) -> None:
        self.pace, self.place, self.step = 1.0 + settings.seed, torch.zeros(()), 0

    def facts(self) -> Mapping[str, object]:
        return {"pace": self.pace, "data": "walks", "data_checksum": "abc"}

    def rows(self) -> Iterator[Mapping[str, float]]:
        while self.step < self.steps:
            self.step += 1
            self.place = self.place + self.pace
            yield {"round": self.step, "loss": -float(self.place)}

    def findings(self) -> list[Any]:
        return []

    def save(self, folder: Path) -> None:
        (folder / "place.json").write_text(json.dumps(float(self.place)))


class Keeping(Walk):
    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place, "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.place, self.step = state["place"], state["step"]


drawn: list[dict[str, Drawn]] = []


@pytest.fixture(params=[Walk, Keeping])
def walks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn.clear()
    kind = Kind(request.param, lambda arms, folder, question: drawn.append(dict(arms)))
    monkeypatch.setattr("fedmomentum.experiments.running.kind_of", lambda _: kind)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "walk.yaml"
    path.write_text(TEXT)
    return path


def losses(result: Result) -> dict[str, list[tuple[int, float]]]:
    return {arm: [(row["round"], row["loss"]) for row in rows] for arm, rows in result.arms.items()}


class StopAt:
    """A listener that asks for a stop in some round of an arm."""

    def __init__(self, stop: StopAfterRound, arm: str, step: int) -> None:
        self.stop, self.place = stop, (arm, step)

    def start(self, event: Any) -> None: ...

    def end(self, event: Any) -> None: ...

    def round_end(self, event: Any) -> None:
        if (event.arm, event.round) == self.place:
            self.stop.asked = True


@pytest.mark.usefixtures("walks")
def test_a_run_that_was_stopped_goes_on_to_the_same_rows_and_pictures(file: Path, tmp_path: Path) -> None:
    whole = api.run(file, out=tmp_path / "runs")
    assert losses(whole)["b"] == [(k, -2.0 * k) for k in range(1, 7)]
    stop = StopAfterRound(signals=False)
    stopped = api.course(scenario.load(file), [StopAt(stop, "b", 4)], out=tmp_path / "runs", stop=stop).go()
    assert stopped.status == "interrupted"
    assert [list(rows) for rows in losses(stopped).values()] == [losses(whole)["a"], losses(whole)["b"][:4]]
    assert list(drawn[-1]) == ["a"]
    result = api.resume(stopped.folder)
    assert (result.status, losses(result)) == ("finished", losses(whole))
    assert list(drawn[-1]) == ["a", "b"]
    run = load_run(stopped.folder)
    assert [(row["arm"], row["round"]) for row in run.metrics] == [(arm, k) for arm in "ab" for k in range(1, 7)]
    assert run.provenance["data"] == {"walks": "abc"}
    assert run.arms["b"].status["facts"] == {"pace": 2.0, "data": "walks"}


def test_what_does_not_fit_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unfit(Walk):
        def __init__(self, settings: Any) -> None:
            raise UserError("system: too steep")

    monkeypatch.setattr("fedmomentum.experiments.running.kind_of", lambda _: Kind(Unfit, lambda *_: None))
    (tmp_path / "s.yaml").write_text(TEXT)
    with pytest.raises(UserError, match="too steep"):
        api.run(tmp_path / "s.yaml", out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_every_kind_but_federated_has_an_experiment() -> None:
    assert experiments.MODULES.keys() == scenario.KINDS.keys() - {"federated"}


def test_an_analogy_runs_where_neither_flower_nor_ray_is_installed(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['flwr'] = sys.modules['ray'] = None\n"
        "from fedmomentum.cli import main\n"
        f"sys.exit(main(['run', 'spring', '--out', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "7 of 7 predictions hold" in done.stdout
    (folder,) = (tmp_path / "spring").iterdir()
    assert {path.name for path in folder.iterdir()} >= {"metrics.jsonl", "findings.json", "series.npz", "plots"}
    assert load_run(folder).findings[0]["claim"] == "radius"
