"""The engine as a strategy sees it: ours and Flower's, in this process and on Ray, with the same bits."""

from __future__ import annotations

import os
import random
from functools import partial

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import strategy as stock

from fedmomentum import strategies as ours
from fedmomentum.clients import fold
from fedmomentum.clients.app import client_app
from fedmomentum.clients.library import available
from fedmomentum.clients.network import Network
from fedmomentum.clients.worker import Worker
from fedmomentum.simulation.executor import InlineExecutor, Lost
from fedmomentum.simulation.faults import Faults
from fedmomentum.simulation.flower import to_arrays, to_record
from fedmomentum.simulation.foreign import AppGrid, AppWorker
from fedmomentum.simulation.grid import SimulationGrid
from fedmomentum.simulation.loop import run_rounds
from tests.clients.federation import SIZES, federation, spec

STOCK = dict(fraction_evaluate=0.0, min_evaluate_nodes=0)


def start(wanted) -> ArrayRecord:
    return to_record({n: t.detach().numpy() for n, t in Network(wanted.model).tree().items()})


def simulate(strategy, *, executor=None, wanted=None, data=None, rounds=3, grid_options=None, **options):
    wanted = wanted or spec()
    data = data or federation()
    own = executor is None
    executor = executor or InlineExecutor(partial(Worker, wanted), data)
    grid = SimulationGrid(executor, wanted, data.sizes, **(grid_options or {}))
    try:
        return run_rounds(strategy, grid, start(wanted), rounds, **options)
    finally:
        if own:
            executor.close()


def fedavgm(**options):
    return ours.FedAvgM(server_momentum=0.9, fraction_evaluate=0.0, **options)


def same(a, b):
    a, b = to_arrays(a.arrays), to_arrays(b.arrays)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def close(a, b, tolerance=1e-5):
    a, b = to_arrays(a.arrays), to_arrays(b.arrays)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=tolerance, atol=tolerance, err_msg=name)


class Shuffled(InlineExecutor):
    """Runs the tasks of a round in a random order, each of them twice, on a fresh worker now and then."""

    def __init__(self, make, *resident):
        super().__init__(make, *resident)
        self._fresh = lambda: make(*resident)

    def run(self, tasks, payload, *, timeout=None):
        order = list(range(len(tasks)))
        random.Random(len(tasks)).shuffle(order)
        found = {}
        for position in order:
            self._worker.run(tasks[position], payload)
            if position % 2:
                self._worker = self._fresh()
            found[position] = self._worker.run(tasks[position], payload)
        return [found[position] for position in range(len(tasks))]


class Crowd(InlineExecutor):
    """Says that it has so many workers."""

    def __init__(self, workers, *arguments):
        super().__init__(*arguments)
        self.workers = workers

    def facts(self):
        return {"workers": self.workers}


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_a_large_model_is_folded_to_the_same_bits_by_any_number_of_workers(monkeypatch, weighting):
    data, wanted = federation(), spec()
    plain = simulate(fedavgm(weighting=weighting), data=data, wanted=wanted)
    monkeypatch.setattr(fold, "LARGE", 0)
    runs, moved = [], []
    for workers in (1, 2, 3, 8):
        executor = Crowd(workers, partial(Worker, wanted), data)
        grid = SimulationGrid(executor, wanted, data.sizes)
        runs.append(run_rounds(fedavgm(weighting=weighting), grid, start(wanted), 3))
        size = sum(a.nbytes for a in to_arrays(start(wanted)).values())
        moved.append((grid.report.broadcast_bytes + grid.report.gathered_bytes) / size)
        executor.close()
    assert moved[:2] == [2, 3]  # one broadcast, and one answer a worker
    for run in runs[1:]:
        same(run, runs[0])
    close(runs[0], plain)
    assert runs[0].rows[-1]["replies"] == len(SIZES)


@pytest.mark.parametrize(("hidden", "native"), [(8, False), (64, False), (8, available())])  # 64: in dual form
def test_arrival_order_and_retries_do_not_change_a_bit(hidden, native):
    wanted, data = spec(options={"hidden": [hidden]}, native=native), federation()
    shuffled = Shuffled(partial(Worker, wanted), data)
    options = {"wanted": wanted, "data": data, "grid_options": {"block_size": 2}}
    same(simulate(fedavgm(), **options), simulate(fedavgm(), executor=shuffled, **options))


def test_the_engine_equals_flowers_client_app_message_by_message():
    """Blocks with partial means against the same clients as a plain Flower ClientApp, one model a message."""
    wanted, data = spec(vectorize="off"), federation()
    app = client_app(wanted, data)
    grid = AppGrid(InlineExecutor(partial(AppWorker, app)), len(SIZES))
    by_message = run_rounds(fedavgm(), grid, start(wanted), 3)
    close(by_message, simulate(fedavgm(), wanted=wanted, data=data), 1e-6)
    single = simulate(fedavgm(accumulation="wide"), wanted=wanted, data=data, grid_options={"block_size": 1})
    same(by_message, single)


@pytest.mark.parametrize(
    "name", ["FedAvg", "FedAvgM", "FedAdam", "FedYogi", "FedAdagrad", "FedMedian", "FedTrimmedAvg", "Krum", "FedProx"]
)
def test_stock_flower_strategies_run_on_the_engine(name):
    settings = {"FedProx": {"proximal_mu": 0.0}, "Krum": {"num_malicious_nodes": 1}}.get(name, {})
    result = simulate(getattr(stock, name)(**STOCK, **settings), rounds=2)
    assert len(result.rows) == 2 and result.rows[-1]["replies"] == len(SIZES)
    moved = to_arrays(result.arrays)
    assert all(np.isfinite(a).all() for a in moved.values())
    assert any((a != b).any() for a, b in zip(moved.values(), to_arrays(start(spec())).values(), strict=True))


def test_stock_fedavg_on_the_engine_equals_ours():
    random.seed(0)
    close(simulate(stock.FedAvg(**STOCK)), simulate(ours.FedAvg(fraction_evaluate=0.0)), 1e-6)


def test_strategies_start_on_the_grid_as_flower_has_it():
    wanted, data = spec(), federation()
    grid = SimulationGrid(InlineExecutor(partial(Worker, wanted), data), wanted, data.sizes)
    result = fedavgm().start(grid, start(wanted), num_rounds=3)
    same(result, simulate(fedavgm(), wanted=wanted, data=data))


def test_blocks_are_not_clipped_as_if_they_were_clients():
    """Flower's server-side clipping sees single replies, whatever the engine could save: a block is no client."""
    wrap = partial(stock.DifferentialPrivacyServerSideFixedClipping, noise_multiplier=0.0, num_sampled_clients=6)
    wanted, data = spec(vectorize="off"), federation()
    app = AppGrid(InlineExecutor(partial(AppWorker, client_app(wanted, data))), len(SIZES))
    by_message = run_rounds(wrap(stock.FedAvg(**STOCK), clipping_norm=0.01), app, start(wanted), 2)
    in_blocks = simulate(
        wrap(ours.FedAvg(fraction_evaluate=0.0), clipping_norm=0.01), wanted=wanted, data=data, rounds=2
    )
    close(by_message, in_blocks, 1e-5)
    grid = SimulationGrid(InlineExecutor(partial(Worker, wanted), data), wanted, data.sizes)
    wrapped = wrap(ours.FedAvg(fraction_evaluate=0.0), clipping_norm=0.01)
    close(by_message, wrapped.start(grid, start(wanted), num_rounds=2), 1e-5)


def test_partial_means_equal_single_replies():
    results = [simulate(fedavgm(), grid_options={"block_size": size}) for size in (1, 2, 6)]
    close(results[0], results[1], 1e-6)
    close(results[0], results[2], 1e-6)


def test_failures_are_named_and_the_round_goes_on():
    result = simulate(fedavgm(), data=federation(poison=2))
    assert {(r, f.client, f.kind) for r, f in result.failures} == {(r, 2, "rejected") for r in (1, 2, 3)}
    assert result.rows[-1]["replies"] == len(SIZES) - 1
    close(result, simulate(ours.FedAvgM(server_momentum=0.9, fraction_evaluate=0.0, cohort=_Without(2))), 1e-6)


class _Without:
    def __init__(self, client):
        self.client = client

    def choose(self, server_round, node_ids):
        return [n for n in node_ids if n != self.client]


def test_dropouts_are_counted_and_seeded():
    run = lambda: simulate(fedavgm(), grid_options={"faults": Faults(dropout=0.5, seed=4)})  # noqa: E731
    first, second = run(), run()
    same(first, second)
    assert first.failures == second.failures and first.failures
    assert {f.kind for _, f in first.failures} == {"dropout"}
    for row in first.rows:
        assert row["replies"] + row["failures"] == row["cohort"] == len(SIZES)


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2])
def test_compiled_code_has_the_same_bits_wherever_it_runs(local_ray, workers):
    from fedmomentum.simulation.ray_executor import RayExecutor

    sizes, shape = (16, 16, 9, 16, 16, 3), (1, 8, 8)
    wanted = spec(vectorize="on", shape=shape, native=available())
    data = federation(sizes, shape=shape)
    rounds = {"rounds": 4, "grid_options": {"block_size": 2}}
    executor = RayExecutor(partial(Worker, wanted), data, workers=workers)
    try:
        on_ray = simulate(fedavgm(), executor=executor, wanted=wanted, data=data, **rounds)
    finally:
        executor.close()
    same(on_ray, simulate(fedavgm(), wanted=wanted, data=data, **rounds))


class _Loses(InlineExecutor):
    def run(self, tasks, payload, *, timeout=None):
        results = super().run(tasks, payload, timeout=timeout)
        results[0] = Lost("its worker died 3 times")
        return results


def test_a_lost_block_is_a_failure_of_its_clients():
    wanted, data = spec(), federation()
    result = simulate(
        fedavgm(), executor=_Loses(partial(Worker, wanted), data), rounds=1, grid_options={"block_size": 2}
    )
    assert [(f.client, f.kind) for _, f in result.failures] == [(0, "lost"), (5, "lost")]


def test_a_timeout_leaves_late_blocks_out():
    result = simulate(fedavgm(), rounds=1, timeout=-1.0)
    assert {f.kind for _, f in result.failures} == {"late"}
    same(result, simulate(fedavgm(), rounds=0))


def test_traffic_is_counted_per_client():
    result = simulate(fedavgm(), rounds=1)
    size = sum(a.nbytes for a in to_arrays(start(spec())).values())
    assert result.rows[0]["bytes_down"] == result.rows[0]["bytes_up"] == size * len(SIZES)


def test_kept_client_state_can_be_saved_and_restored():
    wanted, data = spec(keep_state=True), federation()
    whole = simulate(fedavgm(), wanted=wanted, data=data, rounds=4)
    executor = InlineExecutor(partial(Worker, wanted), data)
    strategy, grid = fedavgm(), SimulationGrid(executor, wanted, data.sizes)
    half = run_rounds(strategy, grid, start(wanted), 2)
    saved, memory = strategy.state_dict(), grid.state_dict()
    assert sorted(memory["memory"]) == list(range(len(SIZES)))
    again, fresh = fedavgm(), SimulationGrid(executor, wanted, data.sizes)
    again.load_state_dict(saved)
    fresh.load_state_dict(memory)
    same(whole, run_rounds(again, fresh, half.arrays, 4, first_round=3))


@pytest.fixture(scope="module")
def local_ray():
    ray = pytest.importorskip("ray")
    from fedmomentum.simulation.ray_pool import start_ray

    start_ray(None, cpus=4)
    yield ray
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_ray_gives_the_same_bits(local_ray, workers):
    from fedmomentum.simulation.ray_executor import RayExecutor

    wanted, data = spec(keep_state=True), federation()
    executor = RayExecutor(partial(Worker, wanted), data, workers=workers)
    try:
        on_ray = simulate(fedavgm(), executor=executor, wanted=wanted, data=data, grid_options={"block_size": 2})
        same(on_ray, simulate(fedavgm(), wanted=wanted, data=data, grid_options={"block_size": 2}))
    finally:
        executor.close()


class _Fragile:
    """A worker that dies the first time it is given the second block."""

    def __init__(self, flag, wanted, data):
        self.flag, self.worker = flag, Worker(wanted, data)

    def run(self, task, payload):
        if task.index == 1 and not os.path.exists(self.flag):  # noqa: PTH110
            open(self.flag, "w").close()  # noqa: PTH123
            os._exit(1)
        return self.worker.run(task, payload)


@pytest.mark.ray
def test_a_worker_that_dies_is_replaced_and_its_block_run_again(local_ray, tmp_path):
    from fedmomentum.simulation.ray_executor import RayExecutor

    wanted, data = spec(), federation()
    executor = RayExecutor(partial(_Fragile, str(tmp_path / "died"), wanted), data, workers=2)
    try:
        result = simulate(fedavgm(), executor=executor, wanted=wanted, data=data, grid_options={"block_size": 2})
        assert executor.replaced == 1 and result.failures == []
        same(result, simulate(fedavgm(), wanted=wanted, data=data, grid_options={"block_size": 2}))
    finally:
        executor.close()


class _Deadly:
    """A worker that always dies of the first block."""

    def __init__(self, wanted, data):
        self.worker = Worker(wanted, data)

    def run(self, task, payload):
        if task.index == 0:
            os._exit(1)
        return self.worker.run(task, payload)


@pytest.mark.ray
def test_a_block_that_kills_every_worker_is_given_up_by_name(local_ray):
    from fedmomentum.simulation.ray_executor import RayExecutor

    wanted, data = spec(), federation()
    executor = RayExecutor(partial(_Deadly, wanted), data, workers=2)
    try:
        result = simulate(
            fedavgm(), executor=executor, wanted=wanted, data=data, rounds=1, grid_options={"block_size": 2}
        )
        assert [(f.client, f.kind) for _, f in result.failures] == [(0, "lost"), (5, "lost")]
        assert result.rows[0]["replies"] == len(SIZES) - 2
    finally:
        executor.close()


@pytest.mark.ray
def test_more_than_the_cluster_has_is_refused(local_ray):
    from fedmomentum.errors import UserError
    from fedmomentum.simulation.ray_executor import RayExecutor

    with pytest.raises(UserError, match=r"engine\.gpus"):
        RayExecutor(partial(Worker, spec()), federation(), workers=1, gpus=1)
    with pytest.raises(UserError, match=r"64 workers of 1 CPUs need 64"):
        RayExecutor(partial(Worker, spec()), federation(), workers=64)


@pytest.mark.ray
def test_a_third_party_client_app_runs_on_ray_and_keeps_its_context(local_ray):
    from fedmomentum.simulation.ray_executor import RayExecutor

    executor = RayExecutor(partial(AppWorker, "tests.simulation.quickstart:app"), workers=2)
    inline = InlineExecutor(partial(AppWorker, "tests.simulation.quickstart:app"))
    try:
        from tests.simulation.quickstart import initial

        results = [run_rounds(stock.FedAvg(**STOCK), AppGrid(e, 4), initial(), 3) for e in (executor, inline)]
    finally:
        executor.close()
    close(*results, 1e-6)
    assert results[0].rows[-1]["visits"] == pytest.approx(3.0)
    assert {f.client for _, f in results[0].failures} == {3}
    assert "client 3 has no disk" in results[0].failures[0][1].reason


def test_a_broadcast_makes_no_message_that_nobody_looks_at():
    """Our grid replies for one client a block; any other grid sees a sequence of messages like Flower's own."""
    from fedmomentum.strategies.broadcast import Broadcast

    wanted, data = spec(), federation()
    grid = SimulationGrid(InlineExecutor(partial(Worker, wanted), data), wanted, data.sizes, block_size=2)
    strategy = fedavgm(reduction="mean")
    sent = strategy.configure_train(1, start(wanted), ConfigRecord(), grid)
    assert isinstance(sent, Broadcast) and len(sent) == len(SIZES) and not sent._made
    lazy = list(grid.send_and_receive(sent))
    assert len(lazy) == 3 and not sent._made
    for replies in (lazy, None):
        found = replies or list(grid.send_and_receive(sent))  # nobody had looked at the messages; somebody has
        asked = {message.metadata.message_id: message.metadata.dst_node_id for message in sent}
        assert [asked[m.metadata.reply_to_message_id] for m in found] == [m.metadata.src_node_id for m in found]
    for reply in lazy:
        table, metrics = reply.content["members"], reply.content["metrics"]
        assert metrics.keys() == table.keys() - {"client"} and metrics["num-examples"] == sum(table["num-examples"])
        mean = np.average(table["train_loss"], weights=table["num-examples"])
        assert metrics["train_loss"] == pytest.approx(mean, rel=1e-12)
    single = list(strategy.configure_train(1, start(wanted), ConfigRecord(), grid))
    assert [m.metadata.dst_node_id for m in single] == [m.metadata.dst_node_id for m in sent]
    assert sent[0] is sent[0] and sent[-1].metadata.dst_node_id == sent[1:][-1].metadata.dst_node_id
    eager = list(grid.send_and_receive(single))
    for a, b in zip(lazy, eager, strict=True):
        assert a.metadata.src_node_id == b.metadata.src_node_id
        assert a.content["members"] == b.content["members"]
        for name, x in to_arrays(a.content["arrays"]).items():
            np.testing.assert_array_equal(x, to_arrays(b.content["arrays"])[name])
