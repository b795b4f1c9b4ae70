"""``fedmomentum list``: shipped scenarios, runs, and the names that a scenario can use."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

from fedmomentum.cli import OK
from fedmomentum.cli.summary import last_value, score
from fedmomentum.cli.table import table
from fedmomentum.report.numbers import number
from fedmomentum.runs import list_runs

PLACES: Mapping[str, tuple[str, ...]] = {
    "data": ("data",),
    "partitions": ("data", "partition"),
    "models": ("model",),
    "strategies": ("strategy",),
    "optimizers": ("client", "optimizer"),
}
"""Where in a scenario each kind of name stands."""


def command(args: argparse.Namespace) -> int:
    """Print the list asked for."""
    if args.kind == "scenarios":
        print(scenarios())
    elif args.kind == "runs":
        print(runs(args.out))
    else:
        from fedmomentum import scenario

        schema = scenario.schema_json()
        found = names(json.loads(schema) if isinstance(schema, str) else schema, PLACES[args.kind])
        print(table(["name", "what it is"], [[name, text] for name, text in found.items()], left=2))
    return OK


def scenarios() -> str:
    """Give the shipped scenarios with the questions they ask."""
    from fedmomentum import scenario

    rows = [[name, scenario.load(path, ()).scenario.question] for name, path in sorted(scenario.shipped().items())]
    return table(["name", "question"], rows, left=2)


def runs(out: str) -> str:
    """Give the runs in a folder, the latest first, each with what became of it."""
    rows = []
    for run in list_runs(out):
        series = run.series
        metric = score(series)
        result = ""
        if metric is not None:
            last = {arm: number(last_value(part, metric)) for arm, part in series.items() if part}
            result = f"{metric} " + ", ".join(f"{arm} {value}".strip() for arm, value in last.items())
        rows.append([str(run.path), str(run.status.get("status", "")), result])
    return table(["run", "status", "result"], rows, left=3) if rows else f"no runs in {out}"


def names(schema: Mapping[str, Any], place: tuple[str, ...]) -> dict[str, str]:
    """Give the allowed values of ``<place>.name`` in a JSON schema, each with the first sentence said about it."""
    nodes: list[Mapping[str, Any]] = [schema]
    for key in place:
        holders = [part.get("properties", {}) for node in nodes for part in _parts(schema, node)]
        nodes = [properties[key] for properties in holders if key in properties]
    found: dict[str, str] = {}
    for node in nodes:
        for part in _parts(schema, node):
            spec = part.get("properties", {}).get("name", {})
            for name in spec.get("enum", [spec["const"]] if "const" in spec else []):
                found.setdefault(str(name), " ".join(part.get("description", "").split("\n\n")[0].split()))
    return found


def _parts(schema: Mapping[str, Any], node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Walk through references and unions to the objects that a node stands for."""
    if "$ref" in node:
        target: Any = schema
        for step in str(node["$ref"]).removeprefix("#/").split("/"):
            target = target[step]
        yield from _parts(schema, target)
    elif any(union in node for union in ("oneOf", "anyOf", "allOf")):
        for union in ("oneOf", "anyOf", "allOf"):
            for branch in node.get(union, []):
                yield from _parts(schema, branch)
    else:
        yield node
