"""A SuperLink and SuperNodes on loopback, in processes of their own: what no test inside one process can show."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from fedmomentum.deployment.loopback import NAME, Loopback
from fedmomentum.runs import load_run
from tests.deployment.test_in_process import ALL, ALONE, split
from tests.end_to_end.tiny import same_models, write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ARMS = {
    "FedAvgM": {"strategy": {"name": "fedavgm", "server_momentum": 0.9}},
    "SCAFFOLD": {"strategy": {"name": "scaffold"}},
}
STACKED = ("--set", "engine.vectorize=on", "--set", "engine.block_size=auto")


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Give three SuperNodes with a part each; every test of the file that needs no TLS runs on them.

    On the last one no process stays between two messages.
    """
    nodes = [{"partition-id": i, "num-partitions": 3, "resident": i < 2} for i in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("loopback")
        with Loopback(folder, nodes) as started:
            for name, value in started.variables.items():
                patch.setenv(name, value)
            yield started


def command(capsys, *words):
    """Run ``fedmomentum``; give its exit code, its answer and what it said on the way."""
    from fedmomentum.cli import main

    code = main([*map(str, words), "--json"])
    said = capsys.readouterr()
    answers = [line for line in said.out.splitlines() if line.startswith("{")]  # Ray may print before it
    return code, json.loads(answers[-1]) if answers else None, said.err


@contextmanager
def as_it_trains(federation, name, act) -> Iterator[None]:
    """Do something to a node as soon as it has something to train on."""
    over, process = Event(), federation.processes[name]

    def watch() -> None:
        while "Receiving: train message" not in federation.log(name):
            if over.wait(0.1):
                return
        act(process.pid)

    thread = Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def stand_still(node: int) -> None:
    """Let a node and all that it started stand still for some seconds."""
    os.killpg(node, signal.SIGSTOP)
    time.sleep(4.0)
    os.killpg(node, signal.SIGCONT)


def lose_resident(node: int) -> None:
    """Kill the process that stays on a node."""
    (found,) = residents(node)
    found.kill()


def residents(node: int) -> list[psutil.Process]:
    """Give the processes that stay on a node: they are of its session, whoever started them."""
    there = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            words = process.cmdline() if os.getsid(process.pid) == node else []
            if "fedmomentum.deployment.resident" in words and process.status() != psutil.STATUS_ZOMBIE:
                there.append(process)
    return there


@pytest.mark.ray
def test_inline_ray_and_deployed_give_the_same_model_whoever_is_slow_or_killed(federation, tmp_path, capsys):
    """Bit for bit with clients one by one, to 1e-6 with the simulation's clients stacked in one block."""
    path = write(
        tmp_path,
        rounds=2,
        data=split(3),
        participation=ALL,
        engine=ALONE,
        arms=ARMS,
        strategy={"name": "fedavg"},
    )
    out = ("--out", tmp_path / "runs")
    with as_it_trains(federation, "node-1", stand_still), as_it_trains(federation, "node-0", lose_resident):
        code, deployed, said = command(capsys, "deploy", path, "--federation", NAME, *out)
    assert code == 0, said
    answers = [deployed]
    actors = ("--set", "engine.name=ray", "--set", "engine.workers=2", "--set", "engine.early=false")
    for flags in ((), actors, STACKED):
        code, answer, said_here = command(capsys, "run", path, *out, *flags)
        assert code == 0, said_here
        answers.append(answer)
    folders = [load_run(answer["folder"]).path for answer in answers]
    for arm in ARMS:
        first, *others, stacked = [folder / "arms" / arm for folder in folders]
        assert all(same_models(first, other) for other in others)
        rows = [load_run(folder).metrics for folder in (first, others[0])]
        assert [row["accuracy"] for row in rows[0]] == [row["accuracy"] for row in rows[1]]
        assert load_run(stacked).status["facts"]["vectorize"] == "stacked"
        left, right = (load_file(folder / "model.safetensors") for folder in (first, stacked))
        for name in left:
            np.testing.assert_allclose(left[name], right[name], rtol=0, atol=1e-6, err_msg=f"{arm}: {name}")
    assert {
        row["replies"] for folder in folders for arm in ARMS for row in load_run(folder / "arms" / arm).metrics[1:]
    } == {3}
    assert "client 2 has joined" in said
    assert (folders[0] / "plots" / "accuracy.png").exists() and load_run(folders[0]).status["status"] == "finished"
    there = [residents(federation.processes[f"node-{i}"].pid) for i in range(3)]
    assert [len(found) for found in there] == [1, 1, 0], "one process worked for all arms, and one node said no"


def test_a_frozen_node_is_not_waited_for_and_has_its_place_when_the_run_goes_on(federation, tmp_path, capsys):
    path = write(tmp_path, rounds=1, data=split(3), participation=ALL, engine=ALONE)
    frozen = federation.processes["node-2"].pid
    os.killpg(frozen, signal.SIGSTOP)
    try:
        flags = ("--federation", NAME, "--out", tmp_path / "runs", "--clients", 2)
        code, answer, said = command(capsys, "deploy", path, *flags)
    finally:
        os.killpg(frozen, signal.SIGCONT)
    assert code == 0, said
    code, answer, said = command(capsys, "deploy", "--resume", answer["folder"], "--clients", 3, "--set", "rounds=2")
    assert code == 0, said
    run = load_run(answer["folder"])
    assert [(row["round"], row.get("replies")) for row in run.metrics] == [(0, None), (1, 2), (2, 3)]


def test_a_run_that_fails_on_the_server_fails_here_too(federation, tmp_path, capsys):
    path = write(tmp_path, rounds=1, data=split(4), participation=ALL, engine=ALONE)
    flags = ("--federation", NAME, "--out", tmp_path / "runs", "--node-timeout", 1)
    code, answer, said = command(capsys, "deploy", path, *flags)
    assert code == 1 and answer["status"] == "failed"
    assert "0 of 4 clients are there" in said or "cannot take part: it splits the data over 3 clients" in said
    assert load_run(answer["folder"]).status["status"] == "failed"


def test_a_federation_that_is_not_there_is_a_users_error(federation, tmp_path, capsys):
    path = write(tmp_path, rounds=1, data=split(3), participation=ALL)
    code, _, said = command(capsys, "deploy", path, "--federation", "elsewhere", "--out", tmp_path / "runs")
    assert code == 2 and "SuperLink connection 'elsewhere' not found" in said
    assert not [*(tmp_path / "runs").rglob("*.json*")]


def test_the_process_that_stays_ends_with_its_supernode(federation):
    node = federation.processes["node-1"]
    there = residents(node.pid)
    assert there
    node.kill()  # it alone: what it started notices by itself
    node.wait()
    gone, alive = psutil.wait_procs(there, 20)
    assert not alive and len(gone) == len(there)
