"""The process that stays on a node: it is worth nothing but time, and it outlives nobody it belongs to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, RecordDict

from fedmomentum import scenario as scenarios
from fedmomentum.build import build
from fedmomentum.data import load
from fedmomentum.deployment import clientapp, handover
from fedmomentum.deployment import resident as staying
from fedmomentum.deployment.desk import Desk
from fedmomentum.deployment.handover import FLOWERS, Asked, Resident, knock, resident, room, send
from fedmomentum.deployment.terms import ANSWER, TERMS, Answer, Terms
from fedmomentum.peer import same_user
from fedmomentum.protocol import SERVER_ROUND
from tests.deployment.test_in_process import scenario

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process stays"),
    pytest.mark.timeout(120),
]


@pytest.fixture
def lobby(tmp_path, monkeypatch) -> Path:
    """Give the folder of the sockets; it is made when it is needed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / f"fedmomentum-{os.getuid()}"


@pytest.fixture
def node(lobby) -> Iterator[Resident]:
    """Give what stands for a node whose SuperNode is a process that sleeps."""
    with subprocess.Popen(["sleep", "600"]) as parent:
        yield Resident("node", parent.pid)
        parent.kill()
    ended(find)


def find() -> list[int]:
    """Give the processes that stay, of those that this one started."""
    return [
        p.pid
        for p in psutil.Process().children()
        if p.status() != psutil.STATUS_ZOMBIE and "fedmomentum.deployment.resident" in p.cmdline()
    ]


def ended(there, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while there():
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.02)


def own(folder: Path, examples: int) -> Path:
    digits = load("digits")
    np.savez(folder / "own.npz", x=digits.x[:examples], y=digits.y[:examples])
    return folder / "own.npz"


def asked(folder: Path, kind="train", *, used=0, server_round=1, state=None, **changes) -> Asked:
    """Give a message of the SCAFFOLD scenario to a node that owns data."""
    path = scenario(folder, 1, strategy={"name": "scaffold"}, **changes)
    (arm,) = scenarios.load(path).arms
    terms = Terms("tiny/one", arm.name, 0, (1, 8, 8), "float32", 10, used)
    content = RecordDict({"config": ConfigRecord({SERVER_ROUND: server_round}), TERMS: terms.record()})
    if kind == "train":
        model = build(arm.scenario).initial_arrays()
        content["arrays"] = model
        content["control"] = ArrayRecord({n: Array(np.full_like(a.numpy(), 1e-3)) for n, a in model.items()})
    return Asked(kind, content, state or RecordDict(), {"data": str(folder / "own.npz")}, {"scenario": str(path)})


def bits(record: RecordDict) -> dict[str, bytes]:
    return {f"{key}/{n}": a.data for key, arrays in record.array_records.items() for n, a in arrays.items()}


def examples(done) -> int:
    return Answer.of(RecordDict({ANSWER: done.content[ANSWER]})).examples


def test_it_answers_bit_for_bit_as_this_process_does_and_sees_changed_data(node, tmp_path):
    own(tmp_path, 60)
    assert examples(node.work(asked(tmp_path, "join"))) == 60
    (pid,) = find()
    first, alone = node.work(asked(tmp_path)), Desk().work(asked(tmp_path))
    assert bits(first.content) == bits(alone.content) and bits(first.state) == bits(alone.state) != {}
    again = {"used": 1, "server_round": 2}
    second = node.work(asked(tmp_path, **again, state=first.state))
    assert bits(second.content) == bits(Desk().work(asked(tmp_path, **again, state=alone.state)).content)
    assert bits(second.content) != bits(first.content)
    own(tmp_path, 40)
    assert examples(node.work(asked(tmp_path, "join"))) == 40
    assert bits(node.work(asked(tmp_path)).content) == bits(Desk().work(asked(tmp_path)).content)
    assert find() == [pid], "one process did all of it"


def test_killed_at_a_message_it_has_a_successor_that_answers(node, tmp_path):
    own(tmp_path, 60)
    node.work(asked(tmp_path, "join"))
    (pid,) = find()
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as others:
        answer = others.submit(node.work, asked(tmp_path, "join"))
        time.sleep(0.2)
        assert not answer.done()
        os.kill(pid, signal.SIGKILL)
        assert examples(answer.result(60)) == 60
    assert find() != [pid] and len(find()) == 1
    os.kill(*find(), signal.SIGKILL)  # between two messages
    ended(find)
    assert examples(node.work(asked(tmp_path, "join"))) == 60


def test_a_failure_is_the_same_one_and_the_next_message_meets_another_process(node, tmp_path):
    own(tmp_path, 60)
    wrong = asked(tmp_path)
    wrong.content["arrays"] = ArrayRecord({"stranger": Array(np.zeros(3, np.float32))})
    with pytest.raises(Exception) as here:
        Desk().work(wrong)
    with pytest.raises(type(here.value)) as there:
        node.work(wrong)
    assert type(there.value) is type(here.value) and str(there.value) == str(here.value)
    assert any("Traceback" in note and "worker.py" in note for note in there.value.__notes__)
    ended(find)
    assert examples(node.work(asked(tmp_path, "join"))) == 60
    (pid,) = find()
    refusal = node.work(replace(asked(tmp_path, "join"), node_config={"data": str(tmp_path / "absent")}))
    assert "no such file" in Answer.of(refusal.content).refusal
    assert find() == [pid], "what a user did wrong is no failure of its own"


def test_it_ends_when_nobody_waits_for_what_it_is_at(node, tmp_path):
    own(tmp_path, 60)
    endless = asked(tmp_path, client={"optimizer": {"name": "sgd", "lr": 0.01}, "batch_size": 1, "epochs": 10**6})
    with node._reached() as line:
        send(line, handover.pickle.dumps(endless))
        time.sleep(0.1)
        (pid,) = find()
    ended(lambda: pid in find())
    assert find() == []


def test_it_ends_with_its_supernode_and_takes_its_socket_along(lobby, tmp_path):
    own(tmp_path, 60)
    with subprocess.Popen(["sleep", "600"]) as parent:
        node = Resident("node", parent.pid)
        node.work(asked(tmp_path, "join"))
        assert [entry.name for entry in lobby.iterdir()] == ["node"]
        parent.kill()
        ended(find, 10)
        assert not [*lobby.iterdir()]


def test_it_ends_after_an_idle_time_and_sooner_where_another_run_begins(lobby):
    with room() as place, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(handover._address(place, "7-it"))
        listener.listen()

        def lasts(idle, rested):
            began = time.monotonic()
            with ThreadPoolExecutor(1) as others:
                serving = others.submit(staying.serve, listener, Desk(), idle=idle, rested=rested)
                time.sleep(0.05)
                handover.sweep(place, "8-")  # another SuperNode's
                time.sleep(0.05)
                handover.sweep(place, "7-")
                serving.result(20)
            return time.monotonic() - began

        assert lasts(0.2, 10.0) >= 0.2
        assert lasts(10.0, 0.08) < 5.0
        assert lasts(0.5, 0.3) >= 0.5  # it has worked too recently


def test_nobody_else_may_enter(lobby, tmp_path, monkeypatch):
    one, other = socket.socketpair()
    own = os.geteuid()
    with one, other:
        assert same_user(one)
        monkeypatch.setattr(handover.os, "geteuid", lambda: 54321)
        assert not same_user(one)
        with pytest.raises(PermissionError, match="nobody else may enter"), room():
            pass  # the folder of that user belongs to this one
        monkeypatch.setattr(handover.os, "geteuid", lambda: own)
    with room():
        assert lobby.stat().st_mode & 0o777 == 0o700
    lobby.chmod(0o750)
    with pytest.raises(PermissionError, match="0700"), room():
        pass
    lobby.rmdir()
    lobby.symlink_to(tmp_path)
    with pytest.raises(OSError, match=r"directory|links"), room():
        pass


def test_another_users_message_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(staying, "same_user", lambda line: False)
    monkeypatch.setattr(staying, "receive", lambda line: pytest.fail("it was read"))
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as line:
        listener.bind(str(tmp_path / "it"))
        listener.listen()
        serving = Thread(target=staying.serve, args=(listener, Desk()), kwargs={"idle": 0.2})
        serving.start()
        line.connect(str(tmp_path / "it"))
        assert line.recv(1) == b"", "the connection is closed at once"
        serving.join()


def test_sockets_of_the_dead_are_swept_and_those_of_the_living_are_not(lobby):
    with room() as place, socket.socket(socket.AF_UNIX) as living:
        for name, listener in (("dead", socket.socket(socket.AF_UNIX)), ("living", living)):
            listener.bind(handover._address(place, name))
            listener.listen()
            if name == "dead":
                listener.close()
        assert knock(place, "dead") is None
        handover.sweep(place, "nobody")
        assert [entry.name for entry in lobby.iterdir()] == ["living"]


def test_only_flowers_process_for_a_message_hands_it_over(lobby, tmp_path, monkeypatch):
    question = Asked("join", RecordDict(), RecordDict(), {}, {})
    assert resident(question, 1, 2) is None, "this is a test, not Flower's process"
    assert FLOWERS in {script.name for script in entry_points(group="console_scripts")}
    monkeypatch.setattr(sys, "argv", [str(tmp_path / FLOWERS), "--insecure"])
    found = resident(question, 1, 2)
    assert found is not None and found.parent == os.getppid()
    others = [
        resident(question, 7, 2),
        resident(question, 1, 7),
        resident(replace(question, node_config={"data": "x"}), 1, 2),
        resident(replace(question, run_config={"set": "rounds=1"}), 1, 2),
    ]
    assert len({found.name, *(other.name for other in others if other)}) == 5
    assert resident(question, 1, 2).name == found.name
    assert resident(replace(question, node_config={"resident": False}), 1, 2) is None
    monkeypatch.setattr(sys, "argv", [FLOWERS, "--allow-runtime-dependency-installation"])
    assert resident(question, 1, 2) is None, "what Flower installed goes with the process of the message"


def test_where_no_process_can_stay_the_one_of_the_message_works(lobby, tmp_path, monkeypatch):
    own(tmp_path, 60)
    question = asked(tmp_path, "join")
    with room():
        lobby.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [FLOWERS])
    monkeypatch.setattr(clientapp, "Message", lambda content, reply_to: content)
    context = Context(1, 2, dict(question.node_config), RecordDict(), dict(question.run_config))
    answer = clientapp.join(SimpleNamespace(content=question.content), context)
    assert Answer.of(answer).examples == 60 and not find()
