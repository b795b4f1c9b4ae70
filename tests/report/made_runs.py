"""Run folders as the recorder leaves them, in a moment and without training anything."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedmomentum.events import End, Failure, RoundEnd, Start
from fedmomentum.runs import Recorder, Run, RunFolder, load_run


@dataclass
class Made:
    """What a run is to look like.

    Attributes:
        arms: name -> how fast the loss falls; ``""`` for a run without arms.
        diverge: arm -> round from which on its metrics are not finite.
        failures: (arm, round) -> the replies that were not used.
        extra: more columns of metrics, each a function of the round.
    """

    name: str = "made"
    question: str = "Does it work?"
    arms: Mapping[str, float] = field(default_factory=lambda: {"": 0.1})
    rounds: int = 20
    clients: int = 12
    cohort: int = 4
    every: int = 1
    diverge: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[tuple[str, int], Sequence[Failure]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    expectations: Sequence[Mapping[str, Any]] = ()
    scenario: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    counts: Sequence[Sequence[int]] | None = None
    status: str = "finished"


def make(out: Path, made: Made) -> Run:
    """Write the folder of a run."""
    resolved = {"name": made.name, "question": made.question, "rounds": made.rounds, **made.scenario}
    folder = RunFolder.create(out, made.name, scenario_text="# as written\n", resolved=resolved, hash="ab" * 32)
    folder.write_provenance({"command": ["fedmomentum", "run", "made.yaml"], **made.provenance})
    recorder = Recorder(folder)
    for arm, speed in made.arms.items():
        facts = {"model": "mlp", "parameters": 650, "clients": made.clients, "device": "cpu"}
        recorder.start(Start(made.name, made.rounds, 1, arm, facts))
        for event in _rounds(made, arm, speed):
            recorder.round_end(event)
        recorder.end(End("finished", made.rounds, arm))
    facts = {"expectations": [dict(claim) for claim in made.expectations]} if made.expectations else {}
    folder.set_status(made.status, rounds_done=made.rounds, **facts)
    if made.counts is not None:
        summary = {"clients": len(made.counts), "examples": int(np.sum(made.counts)), "total_variation": 0.25}
        folder.write_partitions([{"arms": list(made.arms), "summary": summary, "counts": made.counts}])
    return load_run(folder.path)


def multiply(run: Run, names: Sequence[str]) -> Run:
    """Give a run of one arm many arms of the same rows; quicker than to record each."""
    [arm] = run.arms.values()
    for i in range(len(names)):
        shutil.copytree(arm.path, run.path / f"arms/copy-{i}")
    arms = {name: f"arms/copy-{i}" for i, name in enumerate(names)}
    (run.path / "status.json").write_text(json.dumps(run.status | {"arms": arms}))
    return load_run(run.path)


def _rounds(made: Made, arm: str, speed: float) -> list[RoundEnd]:
    chance = np.random.default_rng(0)
    events = []
    for r in range(made.rounds + 1):
        cohort = sorted(chance.choice(made.clients, made.cohort, replace=False).tolist()) if r else []
        failures = list(made.failures.get((arm, r), ()))
        good = [client for client in cohort if client not in {f.client for f in failures}]
        row: dict[str, float] = {"round": r}
        if r % made.every == 0:
            bad = r >= made.diverge.get(arm, math.inf)
            row |= {
                "accuracy": math.nan if bad else 1 - math.exp(-speed * r),
                "loss": math.nan if bad else math.exp(-speed * r),
            }
        if r:
            row |= {"train_loss": 2 * math.exp(-speed * r), "cohort": len(cohort), "replies": len(good)}
            row |= {"failures": len(failures), "bytes_down": 1000.0 * len(cohort), "bytes_up": 1000.0 * len(good)}
            row |= {key: value(r) for key, value in made.extra.items()}
        row |= {"seconds": 0.5, "elapsed": 0.5 * (r + 1)}
        columns = {"client": good, "train_loss": [2 * math.exp(-speed * r) + 0.01 * client for client in good]}
        phases = {"train": 0.375, "aggregate": 0.125} if r else {"evaluate": 0.5}
        events.append(RoundEnd(r, made.rounds, row, columns if good else {}, failures, phases, arm))
    return events
