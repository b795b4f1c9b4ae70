from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedmomentum.scenario import Fault, ScenarioError, load

BASE = """\
kind: federated
rounds: 60
data:
  name: digits
  partition: {name: dirichlet, clients: 100, alpha: 0.1}
model: {name: mlp, hidden: [64]}
client:
  optimizer: {name: heavy_ball, lr: 0.05, momentum: 0.9}
strategy: {name: fedavgm, server_momentum: 0.9}
"""


@pytest.fixture
def base() -> str:
    """A whole scenario of nine lines without a fault."""
    return BASE


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a scenario to a file ``s.yaml`` and give its path."""

    def _write(text: str) -> Path:
        file = tmp_path / "s.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return _write


@pytest.fixture
def faults_of(write: Callable[[str], Path]) -> Callable[..., list[Fault]]:
    """Give the faults of a text that must have some."""

    def _faults(text: str, *overrides: str) -> list[Fault]:
        with pytest.raises(ScenarioError) as caught:
            load(write(text), overrides)
        return list(caught.value.faults)

    return _faults
