"""A scenario layer and an engine that answer at once, for tests of the command; run as a script, it is the command.

What the engine does hangs on the override ``act=...``. Run folders, rows and events are the real ones.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from fedmomentum.errors import UserError
from fedmomentum.events import End, Failure, RoundEnd, Start
from fedmomentum.runs import Recorder, RunFolder

TOP = {"FedAvg": 0.8, "FedAvgM": 0.9}
ROUNDS = 10
RESOLVED = {"name": "quick", "question": "Does momentum help?", "rounds": ROUNDS, "client": {"lr": 0.05}}


def load(path: object, overrides: Sequence[str] = ()) -> SimpleNamespace:
    if not Path(str(path)).exists():
        raise UserError(f"{path}: no such file")
    if any(text.startswith("bad=") for text in overrides):
        raise UserError(f"{path}:3:1: rounds: -1 is below 1\n{path}:4:1: modle: unknown key; did you mean 'model'?")
    shape = SimpleNamespace(
        name="quick",
        question="Does momentum help?",
        rounds=ROUNDS,
        extent=lambda: {"clients": 100, "rounds": ROUNDS},
    )
    return SimpleNamespace(
        scenario=shape,
        arms=[SimpleNamespace(name=name, scenario=shape) for name in TOP],
        path=Path(str(path)),
        callables=["mine.nets:tiny"],
        resolved=lambda: RESOLVED,
    )


def accuracy(arm: str, n: int) -> float:
    return TOP[arm] * n / ROUNDS


def run(
    path: object,
    *,
    overrides: Sequence[str] = (),
    out: str = "runs",
    listeners: Sequence[Any] = (),
    profile: bool = False,
) -> Any:
    act = dict(text.split("=", 1) for text in overrides).get("act", "")
    if act == "user":
        raise UserError("data.csv: no such file")
    folder = RunFolder.create(out, "quick", scenario_text="name: quick\n", resolved=RESOLVED, hash="0" * 64)
    told = [Recorder(folder), *listeners]
    arms: dict[str, list[dict[str, float]]] = {}
    status = "finished"
    for arm in TOP:
        rows = arms[arm] = []
        for listener in told:
            listener.start(Start("quick", ROUNDS, arm=arm, facts={"clients": 100}))
        for n in range(ROUNDS + 1):
            row: dict[str, float] = {"round": n, "accuracy": accuracy(arm, n), "loss": 1.0 / (n + 1), "elapsed": n / 4}
            failures = [Failure(3, "dropped out", "dropout")] if n == 4 else []
            if n:
                row |= {"replies": 5, "failures": len(failures), "cohort": 5 + len(failures)}
            rows.append(row)
            for listener in told:
                listener.round_end(RoundEnd(n, ROUNDS, row, {}, failures, arm=arm))
            if act == "chatty":
                print("print")
                os.system("echo child")
            if act == "crash" and n == 3:
                raise ZeroDivisionError("no examples")
            if act == "interrupt" and n == 3:
                raise KeyboardInterrupt
            if act == "slow":
                time.sleep(0.05 if n < 3 else 30)
            if act == "stopped" and n == 3:
                status = "interrupted"
                break
        for listener in told:
            listener.end(End(status, int(rows[-1]["round"]), arm))
        if status != "finished":
            break
    if act == "failed":
        status = "failed"
    folder.set_status(status)
    (folder.plots / "accuracy.png").write_bytes(b"")
    claims = [SimpleNamespace(ok=True, text="FedAvgM accuracy 0.900 >= 0.85")]
    if act == "claim":
        claims.append(SimpleNamespace(ok=False, text="FedAvg accuracy 0.800 >= 0.95"))
    warnings = ["11 clients hold no example"] if act == "warn" else []
    return SimpleNamespace(
        name="quick", folder=folder.path, arms=arms, status=status, expectations=claims, warnings=warnings, findings={}
    )


def choices(path: str) -> dict[str, str]:
    return {"client.optimizer": {"sgd": "Plain steps against the gradient.", "adam": "Scaled by second moments."}}[path]


def as_yaml(value: object) -> str:
    import yaml

    return str(yaml.safe_dump(value))


def install(monkeypatch: Any) -> None:
    """Put the stand-ins in place of what the command imports."""
    import fedmomentum
    from fedmomentum import scenario

    questions = {"quickstart": "Does momentum help?"}
    seam = {"load": load, "choices": choices, "as_yaml": as_yaml, "questions": lambda: questions}
    for name, value in seam.items():
        monkeypatch.setattr(scenario, name, value, raising=False)
    api = ModuleType("fedmomentum.api")
    api.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fedmomentum.api", api)
    monkeypatch.setattr(fedmomentum, "api", api, raising=False)


if __name__ == "__main__":
    import pytest

    from fedmomentum.cli import main

    install(pytest.MonkeyPatch())
    sys.exit(main())
