"""Several machines: the bits of one process, and a machine that goes in the middle of a round."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import cloudpickle
import pytest
import ray
from ray.cluster_utils import Cluster

from fedmomentum.clients.worker import Worker
from fedmomentum.simulation.grid import SimulationGrid
from fedmomentum.simulation.loop import run_rounds
from fedmomentum.simulation.ray_executor import RayExecutor
from tests.clients.federation import federation, spec
from tests.simulation.test_engine import fedavgm, same, simulate, start

ROOT = Path(__file__).resolve().parents[2]


class Doomed(Worker):
    """Says where it is, and stops for good in round 2 on the machine that is to go."""

    def __init__(self, wanted, data, folder):
        super().__init__(wanted, data)
        self.folder, self.node = Path(folder), ray.get_runtime_context().get_node_id()
        (self.folder / f"node-{self.node}").touch()

    def run(self, task, records):
        if task.round == 2 and (self.folder / f"doomed-{self.node}").exists():
            (self.folder / "stopped").touch()
            time.sleep(600)
        return super().run(task, records)


def lose_a_machine(folder: Path) -> None:
    """Run rounds on two machines, one of which goes in the middle of a round, and compare with this process."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    data, wanted = federation(), spec()
    here = simulate(fedavgm(), data=data, wanted=wanted, rounds=4, grid_options={"block_size": 2})
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    executor = None
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        executor = RayExecutor(partial(Doomed, wanted), data, str(folder), workers=2, address=cluster.address)
        grid = SimulationGrid(executor, wanted, data.sizes, block_size=2)
        there = run_rounds(fedavgm(), grid, start(wanted), 1)
        assert executor.facts()["ray_nodes"] == 2
        assert {p.name for p in folder.glob("node-*")} == {f"node-{n['NodeID']}" for n in ray.nodes()}
        (folder / f"doomed-{second.node_id}").touch()

        def pull_the_plug():
            while not (folder / "stopped").exists():
                time.sleep(0.05)
            cluster.remove_node(second, allow_graceful=False)

        plug = threading.Thread(target=pull_the_plug, daemon=True)
        plug.start()
        strategy = fedavgm()
        there = run_rounds(strategy, grid, start(wanted), 4)
        plug.join(60)
        assert (folder / "stopped").exists() and executor.replaced >= 1
        assert not there.failures
        same(there, here)
    finally:
        if executor is not None:
            executor.close()
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.ray
def test_two_machines_and_then_one_give_the_bits_of_one_process(tmp_path):
    """In a process of its own: Ray keeps the token of the first cluster that a process has seen."""
    call = f"from tests.simulation.test_cluster import lose_a_machine as go, Path; go(Path({str(tmp_path)!r}))"
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", call]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
