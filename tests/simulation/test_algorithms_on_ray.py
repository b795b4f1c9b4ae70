"""Every algorithm on Ray's workers: the bits of one process."""

from __future__ import annotations

import sys
from functools import partial

import cloudpickle
import numpy as np
import pytest

from fedmomentum.clients.measuring import PROBES, Adapt, Measure
from fedmomentum.clients.worker import Worker
from fedmomentum.simulation.flower import to_arrays
from fedmomentum.simulation.ray_executor import RayExecutor
from tests.algorithms.test_engine import ALGORITHMS, both_halves, simulate
from tests.clients.federation import federation, records, spec, train_task


class Many:
    """A worker for several specs at once, so that one Ray serves all algorithms."""

    def __init__(self, specs, data):
        self.workers = {name: Worker(wanted, data) for name, wanted in specs.items()}

    def run(self, task, payload):
        name, inner = task
        return self.workers[name].run(inner, payload)


class Named:
    """An executor that speaks to one of the workers of `Many`."""

    def __init__(self, executor, name):
        self.executor, self.name = executor, name

    def run(self, tasks, payload, *, timeout=None):
        return self.executor.run([(self.name, task) for task in tasks], payload, timeout=timeout)


@pytest.mark.ray
def test_ray_gives_the_bits_of_this_process():
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    specs = {case: both_halves(case)[1] for case in ALGORITHMS}
    probes = tuple(name for name in PROBES if name != "batch_norm")
    for adapt in ("momentum", "lr"):
        specs[adapt] = spec(measure=Measure(probes), adapt=Adapt(**{adapt: True}), epochs=2)
    executor = RayExecutor(partial(Many, specs), federation(), workers=2, cpus=0.5)
    try:
        for case in ALGORITHMS:
            here, there = simulate(case), simulate(case, executor=Named(executor, case))
            for name, value in to_arrays(here.arrays).items():
                np.testing.assert_array_equal(value, to_arrays(there.arrays)[name], err_msg=f"{case}: {name}")
        for adapt in ("momentum", "lr"):  # and what clients measure and set for themselves
            here = Worker(specs[adapt], federation()).run(train_task(), records(specs[adapt]))
            [there] = executor.run([(adapt, train_task())], records(specs[adapt]))
            for name, values in here.members.items():
                if name != "probe_seconds":
                    np.testing.assert_array_equal(values, there.members[name], err_msg=name)
    finally:
        executor.close()
