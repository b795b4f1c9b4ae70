"""The resolved scenario is whole, reads back as it is, and its hash is that of what is run."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmomentum.scenario import as_yaml, load, shipped
from fedmomentum.scenario.resolved import digest

Write = Callable[[str], Path]

RICH = """\
seed: 3
participation: {name: bernoulli, probability: 0.2, dropout: {trace: t.csv}, stragglers: {late: partial}}
evaluate: {every: 2}
arms:
  adam: {client.optimizer: {name: adam, lr: 0.1}, client.steps: 3}
  custom: {model: {name: "a.b:c", options: {x: [1, {y: null}], flag: true, "1e-3": "no"}}}
  named=1,x=2: {strategy: {name: fedopt, rule: {name: yogi, lr: 1}, quorum: 0.5}}
sweep: {seeds: 2}
expect: [{metric: loss, arm: adam, le: 1}]
"""


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


MANY = """\
sweep: {grid: {client.optimizer.lr: [0.123456], seed: [12, 13], client.batch_size: [123456, all],
  client.clip_norm: [1.23456, 7], strategy.server_momentum: [0.123456], client.epochs: [12345]}}
"""


@pytest.mark.parametrize("more", ["", RICH, MANY])
def test_it_reads_back_as_the_same_arms_and_hash(base: str, write: Write, tmp_path: Path, more: str) -> None:
    loaded = load(write(base + more))
    again = tmp_path / "resolved.yaml"
    again.write_text(as_yaml(loaded.resolved()))
    other = load(again)
    assert other.resolved() == loaded.resolved()
    assert other.hash == loaded.hash
    assert [(arm.name, arm.group) for arm in other.arms] == [(arm.name, arm.group) for arm in loaded.arms]
    assert [arm.scenario for arm in other.arms] == [arm.scenario for arm in loaded.arms]


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_scenarios_read_back(name: str, tmp_path: Path) -> None:
    loaded = load(name)
    again = tmp_path / "resolved.yaml"
    again.write_text(as_yaml(loaded.resolved()))
    assert load(again).hash == loaded.hash


def test_it_is_json_and_holds_every_default(base: str, write: Write) -> None:
    resolved = load(write(base)).resolved()
    assert json.loads(json.dumps(resolved, allow_nan=False)) == resolved
    assert resolved["name"] == "s"
    assert resolved["client"]["epochs"] == 1
    assert resolved["participation"]["fraction"] == 0.1
    assert resolved["engine"]["threads"] == 1
    assert next(iter(resolved["client"]["optimizer"])) == "name"
    assert "arms" not in resolved
    assert "sweep" not in resolved


def test_arms_share_what_is_the_same_and_blocks_of_different_names_stay_whole() -> None:
    resolved = load("quickstart").resolved()
    assert resolved["data"]["partition"]["alpha"] == 0.1
    assert "strategy" not in resolved
    assert {name: arm["strategy"]["name"] for name, arm in resolved["arms"].items()} == {
        "FedAvg": "fedavg",
        "FedAvgM": "fedavgm",
    }
    assert all(arm.keys() == {"strategy"} and "quorum" in arm["strategy"] for arm in resolved["arms"].values())


def test_the_hash_does_not_depend_on_order_comments_or_style(base: str, write: Write) -> None:
    text = base + RICH
    first = load(write(text)).hash
    assert load(write("# a comment\n" + text.replace("rounds: 60", "rounds:   60  # many"))).hash == first

    def shuffled(value: Any) -> Any:
        if isinstance(value, list):
            return [shuffled(item) for item in value]
        if not isinstance(value, dict):
            return value
        keys = list(value)
        random.Random(1).shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    document = load(write(text)).document
    document["arms"]["named=1,x=2"]["strategy"]["rule"]["lr"] = 1.0  # as good as 1
    other = as_yaml(shuffled(document))
    assert other.splitlines() != as_yaml(document).splitlines()
    assert load(write(other)).hash == first


def test_the_hash_changes_with_every_value(base: str, write: Write) -> None:
    resolved = load(write(base + RICH)).resolved()
    first = digest(resolved)
    seen = {first}
    for path, value in leaves(resolved):
        changed = copy.deepcopy(resolved)
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = "other" if value != "other" else "another"
        seen.add(digest(changed))
    assert len(seen) == 1 + len(list(leaves(resolved)))


@pytest.mark.parametrize(
    "override", ["rounds=61", "seed=1", "client.optimizer.lr=0.051", "engine.threads=2", "question=why?", "name=t"]
)
def test_the_hash_of_a_file_changes_with_an_override(base: str, write: Write, override: str) -> None:
    file = write(base)
    assert load(file, [override]).hash != load(file).hash


def test_the_hash_is_sha256_in_hexadecimal(base: str, write: Write) -> None:
    found = load(write(base)).hash
    assert len(found) == 64
    assert int(found, 16) >= 0


def test_a_loaded_scenario_keeps_the_file_as_it_was_written(base: str, write: Write) -> None:
    file = write(base + "# the end\n")
    loaded = load(file, ["rounds=2"])
    assert (loaded.text, loaded.path) == (base + "# the end\n", file)
    assert loaded.document["rounds"] == 2
