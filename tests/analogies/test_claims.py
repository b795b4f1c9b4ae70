"""Each experiment, at its defaults and away from them, measures what its closed form predicts."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fedmomentum.analogies import ANALOGIES, run
from fedmomentum.errors import UserError

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "spring": [
        {},
        {"form": "ema"},
        {"form": "nesterov"},
        {"momentum": 0.3},
        {"momentum": 0.0},
        {"lr": 0.04, "momentum": 0.64},  # critical: the double root
        {"lr": 0.5, "momentum": 0.5},  # zeros that fall on samples
        {"lr": 3.7, "momentum": 0.9},  # just inside the stability limit 3.8
        {"lr": 3.9, "momentum": 0.9},  # just outside
        {"lr": 1e-4, "curvature": 400.0, "momentum": 0.98},
    ],
    "pd_control": [
        {},
        {"form": "nesterov"},
        {"form": "ema", "lr": 0.1},
        {"momentum": 0.0, "lr": 0.3},
        {"gravity": 0.0},
    ],
    "plateau": [
        {},
        {"form": "ema", "lr": 1e-3, "momentum": 0.9},
        {"form": "nesterov"},
        {"momentum": 0.99, "curvature": 20.0},
    ],
    "ravine": [
        {"rules": ("sgd", "heavy_ball", "nesterov", "adam")},
        {"condition": 1e6, "rules": ("sgd", "heavy_ball", "ema", "nesterov")},
        {"condition": 10.0, "angle": 0.4, "rules": ("sgd", "heavy_ball", "ema", "nesterov")},
    ],
    "weight_decay": [{}, {"momentum": 0.0}, {"optimum": -1.0, "momentum": 0.5, "weight_decay": 2.0}],
    "batch_norm": [{}, {"bn_momentum": 0.3, "momentum": 0.5}, {"bn_momentum": 0.05, "local_steps": 1, "seed": 3}],
    "low_pass": [{}, {"form": "heavy_ball", "momentum": 0.5}, {"form": "nesterov"}, {"momentum": 0.0}],
    "games": [
        {},
        {"momentum_x": 0.3},
        {"turns": False},
        {"momentum_x": 0.2, "momentum_y": 0.2, "turns": False},
        {"momentum_x": 0.0},
        {"lr": 1.0, "momentum_x": -0.3, "momentum_y": -0.3},
        {"lr": 2.2, "momentum_x": 0.0},  # turns without momentum circle only below lr 2
    ],
    "temperature": [{}, {"lr": 1.5, "momentum": 0.5}, {"momentum": 0.95, "noise": 4.0, "lr": 0.03, "seed": 2}],
    "phase_space": [{}, {"angle": 0.0}, {"stiff": 1.0}, {"angle": -math.pi / 4, "seed": 5}],
    "recurrent": [{}, {"weight": 0.9, "form": "nesterov", "gain": 1.3}, {"momentum": 0.0, "form": "ema", "seed": 2}],
    "server_momentum": [
        {"replicas": 400, "rounds": 400},
        {"momentum": 0.5, "server_lr": 1.0, "replicas": 400, "rounds": 400},
        {"per_round": 40, "replicas": 10, "rounds": 50},
    ],
}
CASES = [
    pytest.param(name, options, id=f"{name}-{k}") for name, many in SETTINGS.items() for k, options in enumerate(many)
]


def test_every_analogy_is_in_the_table() -> None:
    assert list(SETTINGS) == list(ANALOGIES)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_measured_as_predicted(name: str, options: dict[str, Any]) -> None:
    measured = run(name, **options)
    assert measured.holds, f"\n{measured}"
    assert measured.analogy == name
    assert set(measured.settings) == set(ANALOGIES[name].options)
    assert all(claim.tolerance <= 0.25 for claim in measured)


@pytest.mark.parametrize("name", ["spring", "games", "batch_norm"])
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    assert run(name).rows() == run(name).rows()


def test_unknown_names_and_options_give_the_near_one() -> None:
    with pytest.raises(UserError, match="did you mean 'spring'"):
        run("sprung")
    with pytest.raises(UserError, match="did you mean 'momentum'"):
        run("spring", momentun=0.9)
    with pytest.raises(UserError, match="analogy 'spring': need lr > 0"):
        run("spring", lr=-1.0)
