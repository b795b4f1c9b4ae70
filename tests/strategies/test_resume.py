"""A run that was stopped and taken up again is the run that was never stopped, to the bit."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch

import fedmomentum.strategies as ours
from fedmomentum.strategies import records

MAKERS = {
    "fedavg": lambda: ours.FedAvg(0.5, seed=1),
    "heavy ball": lambda: ours.FedAvgM(0.5, seed=1, server_momentum=0.9),
    "nesterov": lambda: ours.FedAvgM(0.5, seed=1, server_momentum=0.9, form="nesterov"),
    "schedule": lambda: ours.FedAvgM(0.5, seed=1, server_momentum=0.9, server_learning_rate=lambda step: 0.9**step),
    "adagrad": lambda: ours.FedAdagrad(fraction_train=0.5, seed=1, beta_1=0.5),
    "adam": lambda: ours.FedAdam(fraction_train=0.5, seed=1, convention="keras"),
    "adamw": lambda: ours.FedAdamW(fraction_train=0.5, seed=1, convention="flower"),
    "yogi": lambda: ours.FedYogi(fraction_train=0.5, seed=1),
    "fedopt": lambda: ours.FedOpt(
        rule="rmsprop", rule_options={"lr": 0.1, "momentum": 0.5}, fraction_train=0.5, seed=1
    ),
}


def through_a_file(state):
    """Tensors to a file of their own, the rest to JSON: nothing else may be in there."""

    def split(value):
        return (
            {k: split(v) for k, v in value.items()}
            if isinstance(value, dict)
            else ("tensor" if isinstance(value, torch.Tensor) else value)
        )

    json.dumps(split(state))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("case", MAKERS)
def test_stopped_and_resumed_is_never_stopped(case, grid_of, drifting, model, play, equal_bits):
    def grid():
        return grid_of(drifting(np.float32))

    whole = play(MAKERS[case](), grid(), model(np.float32), range(1, 7))
    first = MAKERS[case]()
    half = play(first, grid(), model(np.float32), range(1, 4))
    second = MAKERS[case]()
    second.load_state_dict(through_a_file(first.state_dict()))
    assert second.round == 3
    rest = play(second, grid(), half[-1], range(4, 7))
    assert all(equal_bits(a, b) for a, b in zip(half + rest, whole, strict=True))
    if case != "fedavg":  # and the state is what makes it so
        forgetful = play(MAKERS[case](), grid(), half[-1], range(4, 7))
        assert not equal_bits(forgetful[-1], whole[-1])


@pytest.mark.parametrize("case", ["fedavg", "nesterov", "adam"])
def test_flowers_start_resumes_too(case, grid_of, drifting, model, record, arrays, equal_bits):
    """``start`` numbers its rounds from 1; after a load they are the next rounds of the saved run."""
    grid = grid_of(drifting(np.float32))
    whole = MAKERS[case]().start(grid, record(model(np.float32)), num_rounds=5)
    first = MAKERS[case]()
    half = first.start(grid, record(model(np.float32)), num_rounds=2)
    second = MAKERS[case]()
    second.load_state_dict(first.state_dict())
    rest = second.start(grid, half.arrays, num_rounds=3)
    assert second.round == 5
    assert equal_bits(arrays(rest.arrays), arrays(whole.arrays))
    assert [messages[0].content["config"]["server-round"] for messages in grid.sent[-6:]] == [3, 3, 4, 4, 5, 5]
    again = second.start(grid, record(model(np.float32)), num_rounds=5)  # without a load: a new run
    assert equal_bits(arrays(again.arrays), arrays(whole.arrays))


def test_a_state_belongs_to_its_strategy():
    with pytest.raises(ValueError, match="the state of a FedAdam, not of a FedYogi"):
        ours.FedYogi().load_state_dict(ours.FedAdam().state_dict())


def test_loading_leaves_the_saved_state_alone(grid_of, drifting, model, play):
    strategy = ours.FedAvgM(server_momentum=0.9)
    play(strategy, grid_of(drifting(np.float64)), model(np.float64), [1])
    state = strategy.state_dict()
    before = {k: x.clone() for k, x in state["server"]["velocity"].items()}
    other = ours.FedAvgM(server_momentum=0.9)
    other.load_state_dict(state)
    play(other, grid_of(drifting(np.float64)), model(np.float64), [2, 3])
    play(strategy, grid_of(drifting(np.float64)), model(np.float64), [2, 3])
    assert all(torch.equal(x, before[k]) for k, x in state["server"]["velocity"].items())


def test_states_of_another_model_are_refused(grid_of, drifting, model, play):
    strategy = ours.FedAvgM(server_momentum=0.9)
    play(strategy, grid_of(drifting(np.float64)), model(np.float64), [1])
    other = ours.FedAvgM(server_momentum=0.9)
    other.load_state_dict(strategy.state_dict())
    smaller = {k: x for k, x in model(np.float64).items() if k != "b"}
    with pytest.raises(KeyError, match="tensor 'b'"):
        play(other, grid_of(drifting(np.float64)), smaller, [2])


def test_records_round_trip(model):
    start = {k: torch.from_numpy(x) for k, x in model(np.float64).items()}
    back = records.tree(records.views(records.record(start)))
    assert all(torch.equal(back[k], x) for k, x in start.items())
