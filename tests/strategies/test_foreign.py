"""Flower's own strategies as a scenario drives them: our cohorts, a seed that fixes them, a state that can be saved."""

from __future__ import annotations

import random

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp import strategy as stock

from fedmomentum.errors import UserError
from fedmomentum.strategies import Foreign, UniformCohort

COHORT = UniformCohort(count=3, seed=4)
FEW = {"min_train_nodes": 1, "min_available_nodes": 1, "min_evaluate_nodes": 1}


def foreign(strategy=None, **options):
    return Foreign(strategy or stock.FedAvgM(server_momentum=0.9, **FEW), train=COHORT, seed=1, **options)


def cohorts(strategy, grid, arrays, rounds):
    return [
        sorted(m.metadata.dst_node_id for m in strategy.configure_train(r, arrays, ConfigRecord(), grid))
        for r in rounds
    ]


def test_the_cohort_is_that_of_the_scenario(grid_of, drifting, model, record):
    grid, arrays = grid_of(drifting(np.float32)), record(model(np.float32))
    expected = [COHORT.choose(r, sorted(grid.clients)) for r in range(1, 6)]
    assert cohorts(foreign(), grid, arrays, range(1, 6)) == expected


def test_what_it_draws_itself_is_fixed_by_the_seed_and_nobody_else_notices(grid_of, drifting, model, record):
    grid, arrays = grid_of(drifting(np.float32)), record(model(np.float32))

    def drawn(state, seed):
        random.seed(state)
        np.random.seed(state)
        before = random.getstate(), np.random.get_state()[1].copy()
        half = Foreign(stock.FedAvg(0.5, **FEW), train=UniformCohort(fraction=1.0), seed=seed)
        found = cohorts(half, grid, arrays, range(1, 5))
        assert random.getstate() == before[0] and (np.random.get_state()[1] == before[1]).all()
        return found

    first = drawn(1, seed=0)
    assert first == drawn(2, seed=0) != drawn(1, seed=3)
    assert len({tuple(cohort) for cohort in first}) > 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: stock.FedAvgM(server_momentum=0.9, **FEW),
        lambda: stock.FedAdam(**FEW),
        lambda: stock.DifferentialPrivacyServerSideFixedClipping(
            stock.FedAvgM(server_momentum=0.9, **FEW), 1.0, 0.5, 3
        ),
        lambda: stock.DifferentialPrivacyServerSideAdaptiveClipping(stock.FedAvg(**FEW), 0.2, 3),
    ],
    ids=["FedAvgM", "FedAdam", "noise", "adaptive clipping"],
)
def test_it_goes_on_from_a_saved_state(make, grid_of, drifting, model, play, tmp_path, equal_bits):
    from fedmomentum.runs.checkpoint import latest_checkpoint, save_checkpoint

    grid, start = grid_of(drifting(np.float32)), model(np.float32)
    whole = play(foreign(make()), grid, start, range(1, 6))
    first, second = foreign(make()), foreign(make())
    half = play(first, grid, start, range(1, 3))
    save_checkpoint(tmp_path, 2, first.state_dict())
    second.load_state_dict(latest_checkpoint(tmp_path)[1])
    rest = play(second, grid, half[-1], range(3, 6))
    assert all(equal_bits(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_a_strategy_that_holds_something_unknown_has_no_state():
    strategy = stock.FedAvg()
    strategy.open_file = object()
    assert foreign(strategy).state_dict() is None


def test_waiting_for_more_nodes_than_the_cohort_has_ends(grid_of, drifting, model, record, monkeypatch):
    monkeypatch.setattr("flwr.serverapp.strategy.strategy_utils.sleep", lambda seconds: None)
    strategy = foreign(stock.FedAvg(min_train_nodes=5))
    with pytest.raises(UserError, match="waits for more nodes than the 3 of the round"):
        strategy.configure_train(1, record(model(np.float32)), ConfigRecord(), grid_of(drifting(np.float32)))


def test_nobody_evaluates_unless_the_scenario_says_so(grid_of, drifting, model, record):
    grid, arrays = grid_of(drifting(np.float32)), record(model(np.float32))
    assert list(foreign().configure_evaluate(1, arrays, ConfigRecord(), grid)) == []
    judges = UniformCohort(count=2, seed=9)
    messages = foreign(evaluate=judges).configure_evaluate(1, arrays, ConfigRecord(), grid)
    assert sorted(m.metadata.dst_node_id for m in messages) == judges.choose(1, sorted(grid.clients))
