"""Every fault of a scenario is told: at its line and column, under its path, with what would be right."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmomentum.errors import UserError
from fedmomentum.scenario import Fault, ScenarioError, load

FaultsOf = Callable[..., list[Fault]]
Write = Callable[[str], Path]


# (line of the base that is replaced, what replaces it, line, column, path, words of the message)
TABLE = [
    # types are strict
    (2, "rounds: yes", 2, 9, "rounds", ["a whole number >= 1", "not 'yes'"]),
    (2, "rounds: '3'", 2, 9, "rounds", ["in quotes is text"]),
    (2, "rounds: 3.0", 2, 9, "rounds", ["a whole number", "not 3.0"]),
    (2, "rounds: true", 2, 9, "rounds", ["a whole number", "not true"]),
    (2, "rounds: 0", 2, 9, "rounds", [">= 1", "not 0"]),
    (2, "rounds: 2000000", 2, 9, "rounds", ["<= 1,000,000"]),
    (2, "rounds:", 2, 8, "rounds", ["not null"]),
    (2, "rounds: [3]", 2, 9, "rounds", ["not a list"]),
    (2, "rounds: 1\nname: a/b", 3, 7, "name", ["letters, digits", "not 'a/b'"]),
    (2, "rounds: 1\nseed: -1", 3, 7, "seed", [">= 0", "not -1"]),
    (2, "rounds: 1\nquestion: 3", 3, 11, "question", ["expected text, not 3"]),
    (6, "model: {name: mlp, hidden: 64}", 6, 28, "model.hidden", ["a list", "a whole number >= 1", "not 64"]),
    (6, "model: {name: mlp, hidden: [64, 0]}", 6, 33, "model.hidden[1]", ["a whole number >= 1, not 0"]),
    (6, "model: {name: mlp, hidden: [64, x]}", 6, 33, "model.hidden[1]", ["not 'x'"]),
    # unknown keys
    (2, "round: 60", 2, 1, "round", ["unknown key 'round'", "did you mean 'rounds'?"]),
    (8, "  optimizer: {name: sgd, lr: 1, momentum: 0.9}", 8, 33, "client.optimizer.momentum",
     ["heavy_ball and ema and nesterov and rmsprop and", "client.optimizer 'sgd' takes name, lr"]),
    (8, "  optimizer: {name: sgd, lr: 1}\n  lr: 1", 9, 3, "client.lr", ["did you mean 'client.optimizer.lr'?"]),
    (9, "strategy: {name: fedavgm, server_momentun: 0}", 9, 27, "strategy.server_momentun",
     ["did you mean 'server_momentum'?", "strategy 'fedavgm' takes name, "]),
    (9, "strategy: {name: fedavg}\nevery: 3", 10, 1, "every",
     ["did you mean 'evaluate.every' or 'checkpoint.every'?"]),
    (9, "strategy: {name: fedavg}\nclient.epochs: 3", 10, 1, "'client.epochs'", ["write 'client.epochs' as nested"]),
    (9, "strategy: {name: fedavg}\n'a b': 3", 10, 1, "'a b'", ["unknown key 'a b'"]),
    # names that pick a block
    (9, "strategy: {name: fedavgmm}", 9, 18, "strategy.name", ["unknown name 'fedavgmm'", "did you mean 'fedavgm'?"]),
    (9, "strategy: {name: 3}", 9, 18, "strategy.name", ["one of fedavg, ", "not 3"]),
    (9, "strategy: {quorum: 3}", 9, 1, "strategy.name", ["is missing", "one of fedavg, "]),
    (9, "strategy: fedavg", 9, 11, "strategy", ["a mapping with a name (fedavg, ", "not 'fedavg'"]),
    (9, "strategy: {name: 'a:b:c'}", 9, 18, "strategy.name", ["package.module:callable", "not 'a:b:c'"]),
    (4, "  name: 'my.data:load'", 4, 9, "data.name", ["your own code cannot stand here", "digits"]),
    (6, "model: {name: mlb, hidden: [64]}", 6, 15, "model.name", ["did you mean 'mlp'?"]),
    (9, "strategy: {name: fedopt, rule: {name: sgdd, lr: 1}}", 9, 39, "strategy.rule.name", ["did you mean 'sgd'?"]),
    (1, "kind: federatet", 1, 7, "kind", ["did you mean 'federated'?"]),
    (1, "kind: [federated]", 1, 7, "kind", ["not a list"]),
    # what is missing
    (2, "seed: 1", 1, 1, "rounds", ["is missing", "a whole number >= 1"]),
    (2, "ronds: 1", 1, 1, "rounds", ["is 'ronds' meant?"]),
    (5, "  partition: {name: dirichlet}", 5, 3, "data.partition.alpha", ["is missing", "a number > 0"]),
    (8, "  optimizer: {name: adam}", 8, 3, "client.optimizer.lr", ["is missing"]),
    (8, "  epochs: 1", 7, 1, "client.optimizer", ["is missing", "a mapping with a name (sgd, "]),
    # ranges
    (8, "  optimizer: {name: sgd, lr: 0}", 8, 30, "client.optimizer.lr", ["a number > 0 or safe, not 0"]),
    (8, "  optimizer: {name: heavy_ball, lr: 1, momentum: 1}", 8, 50, "client.optimizer.momentum", [">= 0 and < 1"]),
    (8, "  optimizer: {name: adam, lr: 1, betas: [0.9]}", 8, 34, "client.optimizer.betas[1]", ["is missing"]),
    (8, "  optimizer: {name: adam, lr: 1, betas: [0.9, 1]}", 8, 47, "client.optimizer.betas[1]", ["< 1, not 1"]),
    (8, "  optimizer: {name: adam, lr: 1, amsgrad: yes}", 8, 43, "client.optimizer.amsgrad", ["write true"]),
    (9, "strategy: {name: fedavgm, form: nesterof}", 9, 33, "strategy.form", ["did you mean 'nesterov'?"]),
    (9, "strategy: {name: fedavg, quorum: 0}", 9, 34, "strategy.quorum", ["number >= 1 or a number > 0 and <= 1"]),
    (9, "strategy: {name: fedavg, quorum: 1.5}", 9, 34, "strategy.quorum", ["not 1.5"]),
    (7, "engine: {device: gpu}\nclient:", 7, 18, "engine.device", ["auto, cpu, cuda", "not 'gpu'"]),
    (7, "engine: {workers: many}\nclient:", 7, 19, "engine.workers", ["auto", "not 'many'"]),
    (7, "engine: {vectorize: true}\nclient:", 7, 21, "engine.vectorize", ["auto, on or off, not true"]),
    (7, "participation: {name: uniform, dropout: 1}\nclient:", 7, 41, "participation.dropout", ["< 1", "not 1"]),
    (7, "participation: {name: uniform, dropout: {trac: a}}\nclient:", 7, 42, "participation.dropout.trac",
     ["did you mean 'trace'?"]),
    (7, "participation: {name: uniform, availability: {name: cyclical}}\nclient:", 7, 53,
     "participation.availability.name", ["did you mean 'cyclic'?"]),
    # settings that are each right but do not fit together
    (8, "  optimizer: {name: sgd, lr: 1}\n  epochs: 1\n  steps: 2", 10, 10, "client.steps", ["not both"]),
    (5, "  partition: {name: quantity}", 5, 14, "data.partition", ["give 'alpha' or 'sigma'"]),
    (5, "  partition: {name: natural}", 5, 21, "data.partition.name", ["natural clients, which 'digits' has not"]),
    (7, "participation: {name: uniform, fraction: 0.1, count: 3}\nclient:", 7, 54, "participation.count", ["not both"]),
    (7, "participation: {name: uniform, count: 101}\nclient:", 7, 39, "participation.count", ["at most the 100"]),
    (7, "evaluate: {clients: 0.5}\nclient:", 7, 21, "evaluate.clients", ["set data.validation"]),
    (7, "participation: {name: uniform, availability: {name: cyclic, period: 4, window: 5}}\nclient:", 7, 80,
     "participation.availability.window", ["at most the period of 4 rounds, not 5"]),
    (6, "model: {name: resnet, depth: 18}", 6, 30, "model.depth", ["6 n + 2, such as 14 or 20, not 18"]),
    (6, "model: {name: lstm}", 6, 15, "model.name", ["'lstm' works on sequences", "'digits' has images"]),
    (9, "strategy: {name: fedavgm, form: ema, dampening: 0.1}", 9, 49, "strategy.dampening", ["only form 'heavy"]),
    (9, "strategy: {name: fedavg, quorum: 101}", 9, 34, "strategy.quorum", ["at most the 100 clients of a round"]),
    (8, "  optimizer: {name: sgd, lr: 1}\n  lr_schedule: {name: cosine, rounds: 5, warmup: 5}", 9, 50,
     "client.lr_schedule.warmup", ["fewer rounds than the 5"]),
    (8, "  optimizer: {name: sgd, lr: 1}\n  lr_schedule: {name: constant, warmup: 60}", 9, 41,
     "client.lr_schedule.warmup", ["fewer rounds than the 60"]),
]  # fmt: skip


DATA_TABLE = [
    ("{name: digits, partition: {name: iid, clients: 10}, shift: {rotation: 90, noise: 0.1, gain: 0.1}}", "", ""),
    ("{name: synthetic, shift: {rotation: 1}}", "data.shift.rotation", "'synthetic' has vectors"),
    ("{name: synthetic, shift: {noise: 1}}", "", ""),
    ("{name: text, path: a, shift: {rotation: 1}}", "data.shift.rotation", "'text' has sequences"),
    ("{name: text, path: a, shift: {noise: 1}}", "data.shift.noise", "'text' has symbols"),
    ("{name: text, path: a, shift: {gain: 0.1}}", "data.shift.gain", "'text' has symbols"),
    ("{name: text, path: a, partition: {name: dirichlet, alpha: 1}}", "data.partition.name", "take iid, quantity or"),
    ("{name: text, path: a, partition: {name: shards}}", "data.partition.name", "'shards' splits by class"),
    ("{name: text, path: a, partition: {name: quantity, sigma: 1}}", "", ""),
    ("{name: text, path: a, partition: {name: natural, clients: 11}}", "data.partition.clients", "makes only 10"),
    ("{name: text, path: a, groups: 11, partition: {name: natural, clients: 11}}", "", ""),
    ("{name: synthetic, clients: 5, partition: {name: natural, clients: 6}}", "data.partition.clients", "only 5"),
    ("{name: synthetic, clients: 5, partition: {name: natural, clients: 5}}", "", ""),
    ("{name: synthetic, clients: 5, partition: {name: iid, clients: 6}}", "", ""),
    ("{name: npz, path: a, partition: {name: natural}}", "", ""),
    ("{name: npz, partition: {name: natural}}", "data.path", "is missing"),
    ("{name: npz, path: '', partition: {name: natural}}", "data.path", "not empty"),
    ("{name: fashion_mnist, partition: {name: natural}}", "data.partition.name", "which 'fashion_mnist' has not"),
    ("{name: fashion_mnist, train_size: 99, partition: {name: iid}}", "data.partition.clients", "more than the 99"),
    ("{name: fashion_mnist, train_size: 100, partition: {name: iid}}", "", ""),
    ("{name: fashion_mnist, partition: {name: iid, clients: 60001}}", "data.partition.clients", "more than the 60000"),
]


@pytest.mark.parametrize(("data", "path", "words"), DATA_TABLE)
def test_a_data_set_has_the_partitions_and_shifts_that_it_can_have(
    write: Write, data: str, path: str, words: str
) -> None:
    model = "lstm" if "text" in data else "logistic"
    file = write(
        f"kind: federated\nrounds: 1\ndata: {data}\nmodel: {{name: {model}}}\n"
        "client: {optimizer: {name: sgd, lr: 1}}\nstrategy: {name: fedavg}\n"
    )
    if not path:
        load(file)
        return
    with pytest.raises(ScenarioError) as caught:
        load(file)
    assert [fault.path for fault in caught.value.faults] == [path]
    assert words in caught.value.faults[0].message


@pytest.mark.parametrize(("number", "text", "line", "column", "path", "words"), TABLE)
def test_a_fault_is_told_at_its_place(
    base: str, faults_of: FaultsOf, number: int, text: str, line: int, column: int, path: str, words: list[str]
) -> None:
    lines = base.splitlines()
    lines[number - 1] = text
    faults = faults_of("\n".join(lines) + "\n")
    found = [fault for fault in faults if fault.path == path]
    assert len(found) == 1, [str(fault) for fault in faults]
    assert (found[0].line, found[0].column) == (line, column), str(found[0])
    for word in words:
        assert word in found[0].message
    told = "\n".join(map(str, faults))
    for jargon in ("pydantic", "http", "tagged", "union", "discriminator", "validation error", "type=", "Extra inputs"):
        assert jargon not in told


def test_all_faults_are_told_at_once_in_the_order_of_the_file(base: str, faults_of: FaultsOf) -> None:
    text = base.replace("rounds: 60", "rounds: none").replace("alpha: 0.1", "alpha: 0").replace("lr: 0.05", "lr: -1")
    text = text.replace("mlp", "mlq").replace("server_momentum", "server_momentu") + "rounds: 2\nwhat: 1\n"
    faults = faults_of(text, "evaluate.every=-1", "nonsense")
    assert [(fault.line, fault.path) for fault in faults] == [
        (2, "rounds"),
        (5, "data.partition.alpha"),
        (6, "model.name"),
        (8, "client.optimizer.lr"),
        (9, "strategy.server_momentu"),
        (10, "rounds"),
        (11, "what"),
        (None, ""),
        (None, ""),
    ]
    assert [fault.file for fault in faults[-2:]] == ["--set nonsense", "--set evaluate.every=-1"]


def test_a_fault_is_one_line_with_file_line_column_path_and_message(base: str, write: Write) -> None:
    file = write(base.replace("rounds: 60", "rounds: 0"))
    with pytest.raises(UserError) as caught:
        load(file)
    assert str(caught.value) == f"{file}:2:9: rounds: expected a whole number >= 1 and <= 1,000,000, not 0"


def test_an_error_survives_a_pickle_and_a_copy() -> None:
    error = ScenarioError([Fault("a.yaml", 2, 1, "x", "wrong"), Fault("a.yaml", 1, 1, "y", "wrong")])
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert str(other) == str(error) == "a.yaml:1:1: y: wrong\na.yaml:2:1: x: wrong"


@pytest.mark.parametrize(
    ("content", "line", "column", "words"),
    [
        (b"", 1, 1, "the file is empty"),
        (b"# only a comment\n", 2, 1, "the file is empty"),
        (b"- a\n", 1, 1, "expected a mapping of settings, not a list"),
        (b"hello\n", 1, 1, "not 'hello'"),
        (b"kind: federated\nname: caf\xe9\n", 2, 10, "byte 0xe9 is not UTF-8"),
        (b"\xff\xfek\x00", 1, 1, "is not UTF-8"),
        (b"a: [1\n", 2, 1, "not YAML"),
        (b" " * (1 << 20) + b"\n", None, None, "longer than 1 MiB"),
    ],
)
def test_a_file_that_is_no_scenario(
    tmp_path: Path, content: bytes, line: int | None, column: int | None, words: str
) -> None:
    file = tmp_path / "s.yaml"
    file.write_bytes(content)
    with pytest.raises(ScenarioError) as caught:
        load(file)
    (fault,) = caught.value.faults
    assert (fault.file, fault.line, fault.column) == (str(file), line, column)
    assert words in fault.message


def test_a_byte_order_mark_and_windows_lines_are_fine(base: str, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + base.replace("\n", "\r\n").encode())
    assert load(file).scenario.rounds == 60


def test_a_file_that_is_not_there_names_what_is_near(base: str, write: Write, tmp_path: Path) -> None:
    file = write(base)
    for path, words in [
        (file.with_name("ss.yaml"), f"did you mean '{file}'?"),
        (tmp_path / "no folder" / "quickstar.yaml", "did you mean 'quickstart'?"),
        ("quickstarts", "did you mean 'quickstart'?"),
        ("zzzz", "no such file. Shipped scenarios: algorithms_compare, "),
        ("a\0b", "no such file"),
        ("x" * 5000, "no such file"),
        (tmp_path, "is a folder"),
        ("", "'': names no scenario"),
    ]:
        with pytest.raises(ScenarioError) as caught:
            load(path)
        assert words in str(caught.value)


def test_a_shipped_scenario_is_found_by_its_name_but_a_file_comes_first(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(load("quickstart").arms) == 2
    (tmp_path / "quickstart").write_text(base)
    assert load("quickstart").arms[0].name == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("system: {name: spring}\nseed: 3\n", "s.yaml:1:1: kind: is missing; with 'system' it is 'kind: analogy'"),
        ("name: x\ntarget: {name: banana}\n", "s.yaml:1:1: kind: is missing; with 'target' it is 'kind: sample'"),
        ("services: {}\nvolumes: {}\n", "s.yaml:1:1: 'services' is not a setting of a scenario, nor is any other key;"),
        (
            "kind: federated\nclient: {optimizer: {lr: .nan}}",
            "s.yaml:2:26: client.optimizer.lr: '.nan' is not a finite",
        ),
    ],
)
def test_what_is_no_federated_scenario_is_told_in_one_line(faults_of: FaultsOf, text: str, expected: str) -> None:
    [fault] = faults_of(text)
    assert expected in str(fault)
