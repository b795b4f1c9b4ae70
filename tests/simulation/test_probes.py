"""What clients measured as the server sees it: the same by block, by message and after a resume; how far they agree."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from fedmomentum import strategies as ours
from fedmomentum.analogies import server_momentum
from fedmomentum.clients.app import client_app
from fedmomentum.clients.measuring import PROBES, Adapt, Measure
from fedmomentum.clients.worker import Worker
from fedmomentum.simulation.executor import InlineExecutor
from fedmomentum.simulation.flower import to_arrays
from fedmomentum.simulation.foreign import AppGrid, AppWorker
from fedmomentum.simulation.grid import SimulationGrid
from fedmomentum.simulation.loop import run_rounds
from fedmomentum.strategies.cohort import UniformCohort
from tests.clients.federation import SIZES, federation, spec

from .test_engine import close, fedavgm, simulate, start

ALL = tuple(name for name in PROBES if name != "batch_norm")


def probed(**settings):
    return spec(
        measure=Measure(ALL, every=2), adapt=Adapt(momentum=True, every=2), epochs=2, vectorize="off", **settings
    )


def test_a_deployed_client_measures_the_same():
    """Messages to a Flower ClientApp, one client each, against the engine's blocks."""
    wanted, data = probed(), federation()
    grid = AppGrid(InlineExecutor(partial(AppWorker, client_app(wanted, data))), len(SIZES))
    by_message = run_rounds(fedavgm(), grid, start(wanted), 3)
    in_blocks = simulate(fedavgm(), wanted=wanted, data=data)
    close(by_message, in_blocks, 1e-6)
    names = [name for name in in_blocks.rows[0] if name.startswith("probe_") and name != "probe_seconds"]
    assert len(names) > 15
    for a, b in zip(by_message.rows, in_blocks.rows, strict=True):
        for name in names:
            assert (name in a) == (name in b)
            np.testing.assert_allclose(a.get(name, 0.0), b.get(name, 0.0), rtol=1e-3, atol=1e-9, err_msg=name)


def test_the_mean_is_weighted_by_examples_and_passes_over_what_is_not_known():
    wanted = spec(measure=Measure(("noise",)), vectorize="off")
    worker = Worker(wanted, federation())
    grid = SimulationGrid(InlineExecutor(lambda: worker), wanted, np.asarray(SIZES))
    row = run_rounds(ours.FedAvg(fraction_evaluate=0.0), grid, start(wanted), 1).rows[0]
    table = grid.report.members
    values, sizes = np.asarray(table["probe_noise"]), np.asarray(table["num-examples"])
    known = np.isfinite(values)
    assert not known.all()  # clients that take one step have no noise to see
    assert row["probe_noise"] == pytest.approx(float((values[known] * sizes[known]).sum() / sizes[known].sum()))


def test_agreement_is_that_of_the_updates():
    data, wanted = federation((20,) * 5), spec(measure=Measure(("drift",)))

    strategy = ours.FedAvg(fraction_evaluate=0.0, cohort=UniformCohort(count=3, seed=1), reduction="every")
    grid = SimulationGrid(InlineExecutor(partial(Worker, wanted), data), wanted, data.sizes)
    kept = []
    ask = grid.send_and_receive
    grid.send_and_receive = lambda *a, **k: kept.extend(ask(*a, **k)) or kept  # type: ignore[method-assign]
    row = run_rounds(strategy, grid, start(wanted), 1).rows[0]
    old = np.concatenate([a.ravel() for a in to_arrays(start(wanted)).values()])
    updates = [old - np.concatenate([a.ravel() for a in to_arrays(m.content["arrays"]).values()]) for m in kept]
    found = server_momentum.probe(torch.from_numpy(np.stack(updates)), population=5, momentum=0.0)
    assert row["probe_coherence"] == pytest.approx(found.coherence, rel=1e-4)
    assert row["probe_sampling_noise"] == pytest.approx(found.sampling_noise, rel=1e-4)


def test_updates_in_another_scale_have_no_coherence():
    wanted = spec(measure=Measure(("drift",)), method="fednova")
    row = simulate(ours.FedNova(fraction_evaluate=0.0), wanted=wanted, rounds=1).rows[0]
    assert "probe_drift" in row and "probe_coherence" not in row


def test_curvature_that_clients_go_by_outlives_a_stop():
    wanted = spec(adapt=Adapt(momentum=True, every=3), vectorize="off")
    data = federation()

    def parts():
        return fedavgm(), SimulationGrid(
            InlineExecutor(partial(Worker, wanted), data), wanted, data.sizes, block_size=2
        )

    through = run_rounds(*parts(), start(wanted), 4)
    strategy, grid = parts()
    first = run_rounds(strategy, grid, start(wanted), 2)
    saved = strategy.state_dict(), grid.state_dict()
    strategy, grid = parts()
    strategy.load_state_dict(saved[0])
    grid.load_state_dict(saved[1])
    second = run_rounds(strategy, grid, first.arrays, 4, first_round=3)
    for name, value in to_arrays(through.arrays).items():
        np.testing.assert_array_equal(value, to_arrays(second.arrays)[name])
    assert [row["momentum"] for row in through.rows[2:]] == [row["momentum"] for row in second.rows]
