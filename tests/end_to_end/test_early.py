"""A run that begins before Ray is up: it goes on there, says so, and ends without waiting or leaving anything."""

from __future__ import annotations

import os
import threading
import time

import pytest

import fedmomentum as fm
from fedmomentum import scenario as scenarios
from fedmomentum.api import course
from fedmomentum.errors import UserError
from fedmomentum.simulation import ray_pool
from tests.end_to_end.tiny import same_models, write


class Listener:
    """Hears of rounds."""

    def start(self, event):
        pass

    def round_end(self, event):
        pass

    def end(self, event):
        pass


class Hold(Listener):
    """Holds a run after round 2 until a worker in another process is there."""

    def __init__(self):
        self.processes, self.running = set(), None

    def round_end(self, event):
        if event.round > 2:
            self.processes |= {span.process for span in event.spans if span.host}
        until = time.monotonic() + 120
        while event.round == 2 and self.running.executor._taken_over() is None and time.monotonic() < until:
            time.sleep(0.05)


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_goes_over_to_ray_to_the_same_bits(tmp_path):
    path = write(tmp_path, rounds=6, client={"optimizer": {"name": "heavy_ball", "lr": 0.05}, "state": "keep"})
    inline = fm.run(path, overrides=["engine.block_size=2"], out=tmp_path / "inline")
    hold = Hold()
    settings = ["engine.block_size=2", "engine.name=ray", "engine.workers=2"]
    hold.running = course(scenarios.load(path, settings), [hold], out=tmp_path / "ray")
    ray = hold.running.go()
    assert same_models(inline.folder, ray.folder)
    assert [row["accuracy"] for row in inline.metrics] == [row["accuracy"] for row in ray.metrics]
    facts = fm.load_run(ray.folder).status["facts"]
    assert facts["early_blocks"] >= 6 and 2 <= facts["workers_since_round"] <= 4
    assert facts["engine"] == "ray" and facts["workers"] == 2
    assert hold.processes - {os.getpid()} and not ray_pool.ray.is_initialized()


class Pool:
    """Stands for a pool that takes its time to come up, or to be refused."""

    gate: threading.Event
    error: UserError | None = None
    closed = 0

    def __init__(self, **settings):
        assert type(self).gate.wait(30)
        if self.error is not None:
            raise self.error

    def close(self):
        type(self).closed += 1


@pytest.fixture
def pool(monkeypatch):
    kind = type("ThisPool", (Pool,), {"gate": threading.Event()})
    monkeypatch.setattr(ray_pool, "RayPool", kind)
    return kind


def test_what_refuses_the_pool_stops_the_run_in_the_round_in_which_it_is_known(tmp_path, pool):
    pool.error = UserError("engine.workers: none today")

    class Refuse(Listener):
        def round_end(self, event):
            if event.round == 2:
                pool.gate.set()
                time.sleep(0.2)

    with pytest.raises(UserError, match="none today"):
        fm.run(write(tmp_path, rounds=40), overrides=["engine.name=ray"], out=tmp_path / "runs", listeners=[Refuse()])
    (status,) = [fm.load_run(path.parent).status for path in (tmp_path / "runs").glob("*/*/status.json")]
    assert status["status"] == "failed" and 2 <= status["rounds_done"] <= 4


def test_a_pool_that_is_refused_before_the_first_round_leaves_no_run(tmp_path, pool):
    pool.error = UserError("engine.workers: none today")
    pool.gate.set()
    with pytest.raises(UserError, match="none today"):
        fm.run(write(tmp_path), overrides=["engine.name=ray"], out=tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("*/*/status.json"))


def test_a_run_that_ends_before_the_pool_is_up_ends_the_pool_as_soon_as_it_is(tmp_path, pool):
    class Ready(Listener):
        def end(self, event):
            threading.Timer(0.5, pool.gate.set).start()

    path = write(tmp_path)
    inline = fm.run(path, out=tmp_path / "inline")
    done = fm.run(path, overrides=["engine.name=ray"], out=tmp_path / "runs", listeners=[Ready()])
    assert pool.closed == 1 and done.status == "finished" and same_models(inline.folder, done.folder)
    facts = fm.load_run(done.folder).status["facts"]
    assert facts["engine"] == "ray" and facts["early_blocks"] > 0 and "workers_since_round" not in facts
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("Thread") and "_keep" in thread.name
    ]


def test_without_early_nothing_runs_before_the_pool_is_there(tmp_path, pool):
    pool.error = UserError("engine.workers: none today")
    threading.Timer(0.5, pool.gate.set).start()
    settings = ["engine.name=ray", "engine.early=false"]
    with pytest.raises(UserError, match="none today"):
        fm.run(write(tmp_path), overrides=settings, out=tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("*/*/status.json"))
