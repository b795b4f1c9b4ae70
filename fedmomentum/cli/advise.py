"""``fedmomentum advise``."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmomentum import scenario
from fedmomentum.cli import OK
from fedmomentum.cli.quiet import hush, stdout_to_stderr
from fedmomentum.errors import UserError
from fedmomentum.runs import Run, load_run
from fedmomentum.runs.atomic import finite
from fedmomentum.runs.folder import RESOLVED

if TYPE_CHECKING:
    from fedmomentum.advising import Findings, Line, Setting
    from fedmomentum.scenario import Arm

HEADS = {"measured": "Measured", "client": "Clients", "server": "Server"}
WIDTH = 110


def command(args: argparse.Namespace) -> int:
    """Measure, or read what was measured, and print what the analogies recommend."""
    run, path = source(args.what)
    loaded = scenario.load(path, args.overrides)
    arm = pick(loaded.arms, args.arm, args.what)
    if arm.scenario.kind != "federated":
        raise UserError(f"{args.what}: advice is for scenarios of kind federated, not {arm.scenario.kind}")
    if not args.debug:
        hush()
    with stdout_to_stderr() if args.json else nullcontext():
        from fedmomentum.advising import advise
        from fedmomentum.advising.look import look
        from fedmomentum.advising.recall import model_of, sharpened

        model = None if run is None else model_of(run, arm.name)
        setting, findings = look(arm.scenario, clients=args.clients, rounds=args.rounds, model=model)
        findings = findings if run is None else sharpened(findings, run, arm.name)
        lines = advise(setting, findings, margin=args.margin)
    name = loaded.scenario.name + (f", arm {arm.name}" if arm.name else "")
    if args.json:
        print(json.dumps(as_json(name, setting, findings, lines), allow_nan=False))
    else:
        print(as_text(name, findings, lines))
    return OK


def source(what: str) -> tuple[Run | None, str | Path]:
    """Tell a run from a scenario: give the run, if it is one, and the file of its scenario."""
    if not Path(what).is_dir():
        return None, what
    run = load_run(what)
    if run.arm or not (run.path / RESOLVED).exists():
        raise UserError(f"{what}: not the folder of a whole run (it has no {RESOLVED}); give the run's own folder")
    return run, run.path / RESOLVED


def pick(arms: Sequence[Arm], wanted: str | None, what: str) -> Arm:
    """Give the arm that is meant, the first one where none is named.

    Raises:
        UserError: there is no such arm.
    """
    if wanted is None:
        return arms[0]
    for arm in arms:
        if wanted in (arm.name, arm.group):
            return arm
    names = ", ".join(arm.name for arm in arms if arm.name)
    raise UserError(f"{what}: there is no arm '{wanted}'; {f'the arms are: {names}' if names else 'it has no arms'}")


def as_text(name: str, findings: Findings, lines: Sequence[Line]) -> str:
    """Give the advice for people."""
    parts = [f"{name}: measured {findings.where} ({findings.cost:,.0f} gradients of one example)"]
    for side, head in HEADS.items():
        parts.append(f"\n{head}")
        for line in lines:
            if line.side == side:
                words = f"{line.topic:<13} {line.text}"
                parts.append(textwrap.fill(words, WIDTH, initial_indent="  ", subsequent_indent=" " * 16))
    if wanted := recommended(lines):
        parts.append(f"\nAs an arm:  advised: {{{', '.join(f'{path}: {_short(v)}' for path, v in wanted.items())}}}")
    return "\n".join(parts)


def as_json(name: str, setting: Setting, findings: Findings, lines: Sequence[Line]) -> Any:
    """Give the advice as plain data; what is not a finite number is null."""
    return finite(
        {
            "name": name,
            "setting": asdict(setting),
            "findings": asdict(findings),
            "lines": [asdict(line) for line in lines],
            "recommended": recommended(lines),
        }
    )


def recommended(lines: Sequence[Line]) -> dict[str, float | str]:
    """Give every recommended setting by its path."""
    return {path: value for line in lines for path, value in line.recommended.items()}


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
