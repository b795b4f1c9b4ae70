"""The closed forms of server momentum, through our strategy on our grid: small, and with its mutants."""

from __future__ import annotations

import pytest

from fedmomentum.experiments import federated_quadratics
from fedmomentum.experiments.federated_quadratics import claims
from fedmomentum.strategies import FedAvgM

SMALL = {
    "clients": 6, "per_round": 6, "server_lr": 0.5, "momentum": 0.6, "local_lr": 0.1, "local_steps": 3, "curvature": 1.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def few_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(federated_quadratics, "COORDINATES", 20)


def test_radius_and_bias_are_those_of_the_closed_form() -> None:
    found = {claim.name: claim for claim in claims(**SMALL)}
    assert len(found) == 3
    assert all(claim.holds for claim in found.values()), found


@pytest.mark.parametrize("wrong", [{"server_momentum": 0.0}, {"form": "ema"}, {"server_learning_rate": 0.4}])
def test_another_strategy_is_noticed(wrong: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(federated_quadratics, "FedAvgM", lambda **given: FedAvgM(**given | wrong))
    assert not all(claim.holds for claim in claims(**SMALL))
