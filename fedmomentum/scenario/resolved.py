"""Scenarios with every default filled in, as plain data: what is stored beside a run, and what is hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fedmomentum.scenario.scenario import Scenario


def resolve(arms: Mapping[str, Scenario], seeds: int | None) -> dict[str, Any]:
    """Give one document that makes the same arms again: what they share, and what each has of its own.

    Args:
        arms: name -> scenario with its first seed; a scenario without arms has one, named ``""``.
        seeds: with how many seeds each is repeated.
    """
    dumps = [_name_first(one.model_dump(mode="json", exclude={"arms", "sweep"})) for one in arms.values()]
    common, own = _split(dumps)
    if list(arms) != [""]:
        common["arms"] = dict(zip(arms, own, strict=True))
    if seeds is not None:
        common["sweep"] = {"seeds": seeds}
    return common


def digest(resolved: Mapping[str, Any]) -> str:
    """Give the SHA-256 of plain data, in hexadecimal; the order of keys does not matter."""
    text = json.dumps(resolved, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _split(dumps: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Give what all mappings share, and what each has besides; blocks of different names share nothing."""
    common: dict[str, Any] = {}
    own: list[dict[str, Any]] = [{} for _ in dumps]
    for key in dict.fromkeys(key for dump in dumps for key in dump):
        values = [dump[key] for dump in dumps if key in dump]
        alike = len(values) == len(dumps)
        if alike and all(_same(value, values[0]) for value in values):
            common[key] = values[0]
        elif alike and all(isinstance(value, dict) and value for value in values) and _one_name(values):
            common[key], inner = _split(values)
            for mine, part in zip(own, inner, strict=True):
                if part:
                    mine[key] = part
            if not common[key]:
                del common[key]
        else:
            for mine, dump in zip(own, dumps, strict=True):
                if key in dump:
                    mine[key] = dump[key]
    return common, own


def _same(a: Any, b: Any) -> bool:
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)  # 1, 1.0 and true are equal in Python


def _one_name(blocks: Sequence[Mapping[str, Any]]) -> bool:
    return len({json.dumps(block.get("name")) for block in blocks}) == 1


def _name_first(value: Any) -> Any:
    """Put ``kind`` and ``name`` at the head of every mapping, where people look for them."""
    if isinstance(value, dict):
        head = [key for key in ("kind", "name") if key in value]
        return {key: _name_first(value[key]) for key in dict.fromkeys([*head, *value])}
    return [_name_first(inner) for inner in value] if isinstance(value, list) else value
