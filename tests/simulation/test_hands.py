"""Workers by a line and by Ray's calls: whatever befalls one, a round ends in the same way."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

from fedmomentum.errors import UserError
from fedmomentum.simulation.executor import Lost

pytestmark = pytest.mark.ray


class Puppet:
    """Does what the task says."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def run(self, task, payload):
        word, *rest = task
        return getattr(self, word)(payload, *rest)

    test = run

    def echo(self, payload, size):
        return payload["x"][:size] * 2.0

    def where(self, payload):
        return os.getpid(), threading.current_thread() is threading.main_thread()

    def once(self, payload, name, then):
        """Do what is said the first time that anybody does this, and say so after that."""
        flag = self.folder / name
        if flag.exists():
            return f"{name} again"
        flag.touch()
        return self.run(then, payload)

    def die(self, payload):
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self, payload, seconds):
        time.sleep(seconds)

    def refuse(self, payload):
        raise UserError("no such thing")

    def stuck(self, payload):
        return threading.Lock()

    def write(self, payload):
        payload["x"][0] = 1.0


@pytest.fixture(scope="module")
def local_ray():
    from fedmomentum.simulation.ray_pool import start_ray

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray = pytest.importorskip("ray")
    start_ray(None, cpus=2)
    yield ray
    ray.shutdown()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module", params=["line", "calls"])
def executor(local_ray, request, tmp_path_factory):
    from fedmomentum.simulation import ray_pool
    from fedmomentum.simulation.ray_executor import RayExecutor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_pool, "PRELOAD", ())
        if request.param == "calls":  # as if the actors were on another machine
            patch.setattr(ray_pool, "_own_node", lambda: None)
        made = RayExecutor(Puppet, str(tmp_path_factory.mktemp(request.param)), workers=2)
        assert made.run([("echo", 3)], PAYLOAD)[0].tolist() == [0, 2, 4]
        assert [type(hand).__name__ for hand in made._hands.values()] == (
            ["Direct", "Direct"] if request.param == "line" else ["Called", "Called"]
        )
        yield made
        made.close()


PAYLOAD = {"x": np.arange(10.0)}
LARGE = {"x": np.arange(1_000_000.0)}


def test_answers_come_in_the_order_of_the_tasks_from_all_workers(executor):
    assert [len(x) for x in executor.run([("echo", n) for n in range(9)], LARGE)] == list(range(9))
    [there] = executor.run([("echo", 1_000_000)], LARGE)
    np.testing.assert_array_equal(there, 2 * LARGE["x"])
    found = executor.run([("where",)] * 6, PAYLOAD)
    assert len({process for process, _ in found}) == 2 and all(main for _, main in found)


def test_what_a_worker_raises_comes_as_what_it_is(executor):
    with pytest.raises(UserError, match="no such thing"):
        executor.run([("echo", 1), ("refuse",), ("echo", 1)], PAYLOAD)
    with pytest.raises(TypeError, match="lock"):
        executor.run([("stuck",)], PAYLOAD)
    with pytest.raises(ValueError, match="read-only"):  # other workers read it too
        executor.run([("write",)], LARGE)
    assert executor.replaced == 0
    assert executor.run([("echo", 2)], PAYLOAD)[0].tolist() == [
        0,
        2,
    ]  # answers to what was broken off are no answers to this


def test_a_killed_worker_is_replaced_and_what_it_held_is_run_again(executor):
    before = executor.replaced
    tasks = [("echo", 5), ("once", "first", ("die",)), *[("echo", n) for n in range(4)]]
    found = executor.run(tasks, LARGE)
    assert [len(x) for x in found] == [5, len("first again"), 0, 1, 2, 3]
    assert executor.replaced == before + 1


@pytest.mark.parametrize("executor", ["line"], indirect=True)
def test_a_worker_that_is_late_is_replaced(executor):
    executor.run([("echo", 1)] * 4, PAYLOAD)
    before, began = executor.replaced, time.monotonic()
    found = executor.run([("echo", 1), ("hang", 600), ("echo", 2)], PAYLOAD, timeout=2)
    assert found[1] == Lost("no answer within the 2 s that the round waits", "late") and len(found[0]) == 1
    assert time.monotonic() - began < 60 and executor.replaced == before + 1
    assert len(executor.run([("echo", 3)], PAYLOAD)[0]) == 3


def test_a_test_goes_on_beside_rounds_and_elsewhere_when_its_worker_dies(executor, monkeypatch):
    from fedmomentum.simulation import ray_executor

    answer = executor.test(("once", "tested", ("hang", 0.5)), PAYLOAD)
    assert [len(x) for x in executor.run([("echo", n) for n in range(5)], LARGE)] == list(range(5))
    assert answer.result() is None
    deadly = executor.test(("once", "deadly", ("die",)), LARGE)
    assert [len(x) for x in executor.run([("echo", n) for n in range(5)], LARGE)] == list(range(5))
    assert deadly.result() == "deadly again"
    with pytest.raises(UserError, match="no such thing"):
        executor.test(("refuse",), PAYLOAD).result()
    monkeypatch.setattr(ray_executor, "ATTEMPTS", 1)
    with pytest.raises(RuntimeError, match="died of 'test'"):
        executor.test(("die",), PAYLOAD).result()


@pytest.mark.parametrize("executor", ["line"], indirect=True)
def test_an_attribute_can_be_asked_for_and_a_pool_used_again(executor, tmp_path):
    from fedmomentum.simulation.ray_executor import RayExecutor

    first = executor.ask("folder")
    again = RayExecutor(Puppet, str(tmp_path), pool=executor.pool)
    assert again.ask("folder") == tmp_path != first
    assert [len(x) for x in again.run([("echo", n) for n in range(5)], LARGE)] == list(range(5))
    again.close()
    assert executor.pool.actors
    with pytest.raises(NotADirectoryError):
        RayExecutor(_NoPuppet, pool=executor.pool).run([("echo", 1)], PAYLOAD)


class _NoPuppet:
    def __init__(self):
        raise NotADirectoryError("there is no stage")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            Exception("The current node timed out during startup.\nMore of it."),
            "The current node timed out during startup.",
        ),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_ray_that_does_not_start_is_told_in_one_line(monkeypatch, error, told):
    ray = pytest.importorskip("ray")
    from fedmomentum.simulation.ray_pool import start_ray

    def init(**options):
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    before = dict(os.environ)
    with pytest.raises(UserError, match=rf"did not start .*\({re.escape(told)}\).* 'inline'"):
        start_ray(None, cpus=2)
    assert all(os.environ[name] == value for name, value in before.items())
