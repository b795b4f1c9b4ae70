"""Overrides, arms and sweeps: what they make, what they are called, and that all of it is checked before a run."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmomentum.scenario import Fault, LoadedScenario, load

FaultsOf = Callable[..., list[Fault]]
Write = Callable[[str], Path]


@pytest.fixture
def loaded(base: str, write: Write) -> Callable[..., LoadedScenario]:
    """Load the base with more text and overrides."""
    return lambda more="", *overrides: load(write(base + more), overrides)


Loaded = Callable[..., LoadedScenario]


def dig(scenario: object, path: str) -> Any:
    for part in path.split("."):
        scenario = getattr(scenario, part)
    return scenario


def test_arms_sweep_and_claims_can_be_taken_away_by_an_override(loaded: Loaded) -> None:
    both = "arms: {a: {}, b: {seed: 1}}\nsweep: {seeds: 2}\n"
    assert len(loaded(both).arms) == 4
    assert [arm.name for arm in loaded(both, "sweep=null").arms] == ["a", "b"]
    assert [arm.name for arm in loaded(both, "sweep=null", "arms=null").arms] == [""]
    assert [arm.name for arm in loaded(both, "sweep=null", "arms=null", "arms={c: {}}").arms] == ["c"]
    claims = both + "expect: [{metric: accuracy, arm: b, than: a}]\n"
    assert loaded(claims).scenario.expect and not loaded(claims, "arms=null", "expect=null").scenario.expect


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("rounds=3", "rounds", 3),
        (" rounds = 3 ", "rounds", 3),
        ("client.optimizer.lr=1e-2", "client.optimizer.lr", 0.01),
        ("client.optimizer.lr=1", "client.optimizer.lr", 1.0),
        ("client.clip_norm=null", "client.clip_norm", None),
        ("client.batch_size=all", "client.batch_size", "all"),
        ("engine.vectorize=off", "engine.vectorize", "off"),
        ("model.hidden=[10, 20]", "model.hidden", (10, 20)),
        ("question='a = b'", "question", "a = b"),
        ("data.partition={name: iid}", "data.partition.name", "iid"),
        ("evaluate.every=5", "evaluate.every", 5),
    ],
)
def test_an_override_sets_one_setting(loaded: Loaded, override: str, path: str, value: object) -> None:
    assert dig(loaded("", override).scenario, path) == value


def test_the_last_override_wins(loaded: Loaded) -> None:
    assert loaded("", "rounds=3", "rounds=4").scenario.rounds == 4


@pytest.mark.parametrize(
    ("override", "kept", "gone"),
    [
        # what all names share stays ...
        ("data.partition={name: iid}", {"data.partition.clients": 100}, "data.partition.alpha"),
        ("data.partition.name=shards", {"data.partition.clients": 100}, "data.partition.alpha"),
        ("client.optimizer={name: sgd}", {"client.optimizer.lr": 0.05}, "client.optimizer.momentum"),
        ("data.name=fashion_mnist", {"data.partition.alpha": 0.1}, "data.test_fraction"),
        ("strategy.name=fedavg", {"strategy.quorum": 3}, "strategy.server_momentum"),
        ("engine.name=inline", {"engine.threads": 2}, ""),
        ("name=other", {"rounds": 60, "data.partition.clients": 100}, ""),
        # ... and where the name does not change, everything does
        ("data.partition={name: dirichlet}", {"data.partition.alpha": 0.1}, ""),
        ("data.partition.clients=20", {"data.partition.alpha": 0.1}, ""),
        # a setting takes the place of the one that it excludes
        ("client.steps=5", {"client.epochs": None, "client.steps": 5}, ""),
        ("participation.count=5", {"participation.fraction": None, "participation.count": 5}, ""),
    ],
)
def test_a_name_that_changes_takes_its_settings_with_it(
    base: str, write: Write, override: str, kept: dict[str, object], gone: str
) -> None:
    text = base.replace("server_momentum: 0.9", "server_momentum: 0.9, quorum: 3").replace(
        "client:", "client:\n  epochs: 2"
    )
    text += "engine: {threads: 2}\nparticipation: {name: uniform, fraction: 0.5}\n"
    scenario = load(write(text), [override]).scenario
    assert {path: dig(scenario, path) for path in kept} == kept
    if gone:
        parent, _, last = gone.rpartition(".")
        assert last not in load(write(text), [override]).document[parent.split(".")[0]]
        assert last not in dig(scenario, parent).model_fields_set


@pytest.mark.parametrize(
    ("override", "fraction", "count"),
    [
        ("participation.count=5", None, 5),
        ("participation.name=uniform", 0.5, None),  # the name that was meant all along
        ("participation.name=weighted", 0.1, None),
        ("participation={name: weighted, count: 3}", None, 3),
    ],
)
def test_a_block_that_leaves_its_name_out_is_the_default_one(
    base: str, write: Write, override: str, fraction: float | None, count: int | None
) -> None:
    found: Any = load(write(base + "participation: {fraction: 0.5, dropout: 0.2}\n"), [override]).scenario.participation
    assert (found.fraction, found.count, found.dropout) == (fraction, count, 0.2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("client.optimizer.lrr=1", "--set client.optimizer.lrr=1: unknown key 'lrr'; did you mean 'lr'?"),
        ("rounds=yes", "--set rounds=yes: expected a whole number"),
        ("rounds.x=1", "--set rounds.x=1: rounds: expected a whole number >= 1 and <= 1,000,000, not a mapping"),
        ("client={epochs: 0}", "--set client={epochs: 0}: client.epochs: expected a whole number >= 1 or null, not 0"),
        ("question=a: b", "--set question=a: b: expected text, not a mapping"),
        ("rounds", "--set rounds: expected PATH=VALUE"),
        ("=3", "--set =3: expected PATH=VALUE"),
        ("a..b=3", "--set a..b=3: expected PATH=VALUE"),
        (".=3", "--set .=3: expected PATH=VALUE"),
        ("rounds=[1", "--set rounds=[1: not YAML"),
        (
            "client={epochs: 1, epochs: 2}",
            "--set client={epochs: 1, epochs: 2}: epochs: the key 'epochs' is there twice",
        ),
        ("a" + ".a" * 50_000 + "=1", "expected PATH=VALUE"),
    ],
)
def test_a_bad_override_is_named_as_it_was_given(base: str, faults_of: FaultsOf, override: str, message: str) -> None:
    faults = faults_of(base, override)
    assert len(faults) == 1
    assert message in str(faults[0])
    assert faults[0].line is None


def test_a_scenario_without_arms_is_one_arm_without_a_name(loaded: Loaded) -> None:
    found = loaded()
    assert [(arm.name, arm.group, arm.overrides) for arm in found.arms] == [("", "", {})]
    assert found.scenario is found.arms[0].scenario
    assert found.scenario.name == "s"  # the file's stem


ARMS = """\
arms:
  FedAvg: {strategy: {name: fedavg}}
  FedAvgM: {}
  nothing:
  dotted: {strategy.server_momentum: 0.5, client: {epochs: 3}, client.batch_size: 7}
"""


def test_arms_change_the_scenario_and_nothing_else(loaded: Loaded) -> None:
    found = loaded(ARMS)
    arms = {arm.name: arm for arm in found.arms}
    assert list(arms) == ["FedAvg", "FedAvgM", "nothing", "dotted"]
    assert arms["FedAvg"].scenario.strategy.name == "fedavg"
    assert arms["FedAvgM"].scenario == arms["nothing"].scenario
    dotted = arms["dotted"]
    assert dotted.overrides == {"strategy": {"server_momentum": 0.5}, "client": {"epochs": 3, "batch_size": 7}}
    assert dig(dotted.scenario, "strategy.server_momentum") == 0.5
    assert (dotted.scenario.client.epochs, dotted.scenario.client.batch_size) == (3, 7)
    assert dotted.scenario.client.optimizer == arms["FedAvgM"].scenario.client.optimizer
    assert found.document["arms"]["FedAvgM"] == {}


def test_overrides_are_laid_under_the_arms(loaded: Loaded) -> None:
    arms = {arm.name: arm.scenario for arm in loaded(ARMS, "strategy.server_momentum=0.1", "rounds=2").arms}
    assert dig(arms["FedAvgM"], "strategy.server_momentum") == 0.1
    assert dig(arms["dotted"], "strategy.server_momentum") == 0.5
    assert {arm.rounds for arm in arms.values()} == {2}


def test_arms_may_give_what_the_scenario_leaves_open(base: str, write: Write) -> None:
    text = base.rsplit("strategy", 1)[0] + "arms: {A: {strategy: {name: fedavg}}, B: {strategy: {name: fedyogi}}}\n"
    assert [arm.scenario.strategy.name for arm in load(write(text)).arms] == ["fedavg", "fedyogi"]


def test_every_arm_takes_every_point(loaded: Loaded) -> None:
    arms = "arms: {A: {client.steps: 3, rounds: 9}, B: {}}\n"
    found = loaded(arms + "sweep: {grid: {client.epochs: [1, 2]}, seeds: 2}\n")
    assert [arm.name for arm in found.arms] == [
        f"{arm},epochs={n},seed={seed}" for arm in "AB" for n in (1, 2) for seed in (0, 1)
    ]
    assert [(arm.scenario.rounds, arm.scenario.client.steps, arm.scenario.client.epochs) for arm in found.arms] == [
        (rounds, None, n) for rounds in (9, 60) for n in (1, 1, 2, 2)
    ]  # the point is laid over the arm, and takes away what it excludes
    assert found.arms[0].overrides["rounds"] == 9 and found.arms[0].group == "A,epochs=1"


@pytest.mark.parametrize(
    ("text", "line", "column", "path", "words"),
    [
        ("arms:\n  A: {rounds: 0}\n", 11, 15, "rounds", "arm 'A': expected a whole number"),
        ("arms:\n  A: {}\n  B: {strategy.eta: 1}\n", 12, 7, "strategy.eta", "arm 'B': unknown key 'eta'"),
        ("arms:\n  A: {round: 1}\n  B: {}\n", 11, 7, "round", "arm 'A': unknown key 'round'"),
        ("arms:\n  A: {strategy: {name: fedavgg}}\n", 11, 24, "strategy.name", "arm 'A': unknown name 'fedavgg'"),
        ("arms:\n  A: 3\n", 11, 6, "arms.A", "expected a mapping or null, not 3"),
        ("arms: [A]\n", 10, 7, "arms", "expected a mapping, not a list"),
        ("arms:\n  a/b: {}\n", 11, 3, "arms.'a/b'", "cannot name a folder"),
        ("arms:\n  .hidden: {}\n", 11, 3, "arms.'.hidden'", "cannot name a folder"),
        ("arms:\n  '': {}\n", 11, 3, "arms.''", "cannot name a folder"),
        ("arms:\n  A: {}\n  a: {}\n", 12, 3, "arms.a", "'a' and 'A' would share a folder"),
        ("arms:\n  A: {name: x}\n", 11, 7, "arms.A.name", "an arm cannot change 'name'"),
        ("arms:\n  A: {arms.B: {}}\n", 11, 7, "arms.A.arms", "an arm cannot change 'arms'"),
        ("arms:\n  A: {rounds: 1, 'client..x': 1}\n", 11, 18, "arms.A", "'client..x' is no path"),
        ("arms:\n  A: {client: {epochs: 1}, client.epochs: 2}\n", 11, 28, "arms.A.'client.epochs'", "is there twice"),
        ("arms:\n  A: {client.epochs: 1, client: 2}\n", 11, 25, "arms.A.client", "is there twice"),
        ("sweep: {grid: {rounds: [1, 0]}}\n", 10, 28, "rounds", "arm 'rounds=0': expected a whole number"),
        ("sweep: {grid: {round: [1, 2]}}\n", 10, 16, "round", "every arm: unknown key 'round'"),
        ("sweep: {grid: {rounds: []}}\n", 10, 24, "sweep.grid.rounds", "at least 1"),
        ("sweep: {grid: {rounds: 3}}\n", 10, 24, "sweep.grid.rounds", "expected a list of items, at least 1"),
        ("sweep: {zip: {rounds: [1, 2], seed: [1]}}\n", 10, 14, "sweep.zip", "rounds has 2, seed has 1"),
        ("sweep: {grid: {seed: [1]}, zip: {seed: [1]}}\n", 10, 40, "sweep.zip.seed", "is in grid as well"),
        ("sweep: {grid: {seed: [1]}, seeds: 2}\n", 10, 35, "sweep.seeds", "'seed' is swept as well"),
        ("sweep: {seeds: 0}\n", 10, 16, "sweep.seeds", ">= 1"),
        ("sweep: {grid: {rounds: [1, 0], client.epochs: [1, 2, 3]}, seeds: 2}\n", 10, 28, "rounds",
         "arms 'rounds=0,epochs=1', 'rounds=0,epochs=2' and 1 more: expected"),
        ("sweep: {gird: {}}\n", 10, 9, "sweep.gird", "did you mean 'grid'?"),
        ("sweep: {grid: {a..b: [1]}}\n", 10, 16, "sweep", "'a..b' is no path"),
        ("sweep: {grid: {question: [a, b]}}\n", 10, 16, "sweep.question", "an arm cannot change 'question'"),
        (f"sweep: {{grid: {{seed: {list(range(101))}}}, zip: {{rounds: [1{', 1' * 9}]}}}}\n", 10, 8, "sweep",
         "makes 1010 arms; the most is 1000"),
        (f"sweep: {{grid: {{seed: {list(range(40))}, rounds: {list(range(40))}}}}}\n", 10, 8, "sweep", "1600 arms"),
        ("sweep: {grid: {rounds: [1, 2]}, seeds: 501}\n", 10, 1, "sweep", "makes 1002 arms"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_arms_is_told_where_it_stands(
    base: str, faults_of: FaultsOf, text: str, line: int, column: int, path: str, words: str
) -> None:
    faults = faults_of(base + text)
    assert [(fault.line, fault.column, fault.path) for fault in faults] == [(line, column, path)], list(
        map(str, faults)
    )
    assert words in faults[0].message


def test_what_is_wrong_with_the_scenario_is_told_once_and_not_for_each_arm(base: str, faults_of: FaultsOf) -> None:
    faults = faults_of(base.replace("rounds: 60", "rounds: 0") + "sweep: {grid: {client.epochs: [1, 2, 3, 0]}}\n")
    assert [(fault.line, fault.message.split(":")[0]) for fault in faults] == [
        (2, "expected a whole number >= 1 and <= 1,000,000, not 0"),
        (10, "arm 'epochs=0'"),
    ]


GRID = """\
sweep:
  grid: {strategy.server_momentum: [0.0, 0.9], data.partition.alpha: [0.1, 10]}
  zip: {client.optimizer.lr: [0.1, 0.01, 1e-3], client.epochs: [1, 5, 10]}
  seeds: 2
seed: 7
"""


def test_a_sweep_is_the_product_of_grid_rows_and_seeds(loaded: Loaded) -> None:
    arms = loaded(GRID).arms
    rows = ((0.1, 1), (0.01, 5), (0.001, 10))
    expected = list(itertools.product((0.0, 0.9), (0.1, 10.0), rows, (7, 8)))
    paths = ("strategy.server_momentum", "data.partition.alpha", "client.optimizer.lr", "client.epochs", "seed")
    found = [tuple(dig(arm.scenario, path) for path in paths) for arm in arms]
    assert found == [(beta, alpha, *row, seed) for beta, alpha, row, seed in expected]
    assert len({arm.name for arm in arms}) == len(arms) == 24
    assert arms[1].name == "server_momentum=0,alpha=0.1,lr=0.1,epochs=1,seed=8"
    assert arms[0].group == arms[1].group == "server_momentum=0,alpha=0.1,lr=0.1,epochs=1"
    assert len({arm.group for arm in arms}) == 12


def test_seeds_alone_and_beside_arms(loaded: Loaded) -> None:
    assert [(a.name, a.group, a.scenario.seed) for a in loaded("sweep: {seeds: 2}\n").arms] == [
        ("seed=0", "", 0),
        ("seed=1", "", 1),
    ]
    found = loaded("arms: {A: {}, B: {seed: 5}}\nsweep: {seeds: 2}\n").arms
    assert [(a.name, a.group, a.scenario.seed) for a in found] == [
        ("A,seed=0", "A", 0),
        ("A,seed=1", "A", 1),
        ("B,seed=5", "B", 5),
        ("B,seed=6", "B", 6),
    ]


@pytest.mark.parametrize(
    ("sweep", "names"),
    [
        ("{data.validation: [0, 0.5], evaluate.every: [1]}", ["validation=0,every=1", "validation=0.5,every=1"]),
        # the shortest end that tells two paths apart
        ("{checkpoint.every: [1], evaluate.every: [2]}", ["checkpoint.every=1,evaluate.every=2"]),
        ("{strategy: [{name: fedavg}, {name: fedyogi, eta: 1}]}", ["strategy=fedavg", "strategy=fedyogi"]),
        (
            "{strategy: [{name: fedyogi}, {name: fedyogi, eta: 1}]}",
            ["strategy=fedyogi", "strategy=fedyogi (2)"],
        ),
        ("{model.hidden: [[5], [5, 6]]}", ["hidden=5", "hidden=5-6"]),
        ("{client.clip_norm: [null, 1]}", ["clip_norm=null", "clip_norm=1"]),
        ("{data.shift: [{}, {gain: 0.5}]}", ["shift=", "shift=gain"]),
        ("{engine.address: ['ray://a/b', null]}", ["address=ray___a_b", "address=null"]),
    ],
)
def test_points_are_named_after_what_changes(loaded: Loaded, sweep: str, names: list[str]) -> None:
    assert [arm.name for arm in loaded(f"sweep: {{grid: {sweep}}}\n").arms] == names


def test_aliases_may_be_used_in_arms(loaded: Loaded) -> None:
    found = loaded("arms:\n  A: &a {client: {epochs: 2}}\n  B: *a\n")
    assert [arm.scenario.client.epochs for arm in found.arms] == [2, 2]


def test_a_cosine_ends_with_the_scenario_where_it_does_not_say(loaded: Loaded) -> None:
    found = loaded("arms: {A: {rounds: 5}, B: {}}\n", "client.lr_schedule={name: cosine}")
    assert [dig(arm.scenario, "client.lr_schedule.rounds") for arm in found.arms] == [5, 60]
    assert dig(loaded("", "client.lr_schedule={name: cosine, rounds: 9}").scenario, "client.lr_schedule.rounds") == 9


def test_callables_of_the_user_are_listed_for_all_arms(loaded: Loaded) -> None:
    found = loaded(
        "arms: {A: {model: {name: 'my.nets:Net'}}, B: {strategy: {name: 'flwr.x:FedMedian', options: {a: 1}}}}\n"
    )
    assert found.callables == ["flwr.x:FedMedian", "my.nets:Net"]
    assert dig(found.arms[1].scenario, "strategy.options") == {"a": 1}
    assert loaded().callables == []
