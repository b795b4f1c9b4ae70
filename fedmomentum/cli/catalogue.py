"""``fedmomentum list``: shipped scenarios, runs, and the names that a scenario can use."""

from __future__ import annotations

import argparse

from fedmomentum.cli import OK
from fedmomentum.cli.summary import last_value, score
from fedmomentum.cli.table import table
from fedmomentum.errors import UserError
from fedmomentum.report.numbers import number
from fedmomentum.runs import list_runs

PLACES = {
    "data": "data",
    "partitions": "data.partition",
    "models": "model",
    "strategies": "strategy",
    "optimizers": "client.optimizer",
    "systems": "system",
    "problems": "problem",
}
"""Where in a scenario each kind of name stands."""
KINDS = {"systems": "analogy", "problems": "optimize"}
"""In which kind of scenario, where that is not a federated one."""


def command(args: argparse.Namespace) -> int:
    """Print the list asked for."""
    if args.kind == "scenarios":
        print(scenarios())
    elif args.kind == "runs":
        print(runs(args.out))
    else:
        from fedmomentum import scenario

        kind = KINDS.get(args.kind)
        found = scenario.choices(PLACES[args.kind], **({"kind": kind} if kind else {}))
        print(table(["name", "what it is"], [[name, text] for name, text in found.items()], left=2))
    return OK


def scenarios() -> str:
    """Give the shipped scenarios with the questions they ask."""
    from fedmomentum import scenario

    return table(["name", "question"], [[name, text] for name, text in sorted(scenario.questions().items())], left=2)


def runs(out: str) -> str:
    """Give the runs in a folder, the latest first, each with what became of it."""
    rows = []
    for run in list_runs(out):
        try:
            series, status = run.series, str(run.status.get("status", ""))
        except UserError as error:  # one damaged folder is no reason to show none of the others
            rows.append([str(run.path), "unreadable", str(error)])
            continue
        metric = score(series)
        result = ""
        if metric is not None:
            last = {arm: number(last_value(part, metric)) for arm, part in series.items() if part}
            result = f"{metric} " + ", ".join(f"{arm} {value}".strip() for arm, value in last.items())
        rows.append([str(run.path), status, result])
    return table(["run", "status", "result"], rows, left=3) if rows else f"no runs in {out}"
