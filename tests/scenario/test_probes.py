"""``client.probes``, ``lr: safe`` and ``momentum: critical`` in a scenario: what is taken, what is refused and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmomentum.build import build_adapt, client_optimizer
from fedmomentum.clients.measuring import FORM_OF, PROBES, Adapt, Measure
from fedmomentum.scenario import ScenarioError
from fedmomentum.scenario import client as schema

from .test_algorithms import scenario

BALL = "client.optimizer={name: heavy_ball, lr: 0.1, momentum: critical}"


@pytest.mark.parametrize(
    ("overrides", "path", "words"),
    [
        (["client.optimizer={name: adam, lr: safe}"], "client.optimizer.lr", "a number > 0, not 'safe'; safe is a"),
        (["client.optimizer.lr=save"], "client.optimizer.lr", "did you mean 'safe'?"),
        (["client.optimizer.lr=critical"], "client.optimizer.lr", "expected a number > 0 or safe"),
        (["client.optimizer={name: sgd, lr: 0.1, momentum: critical}"], "client.optimizer.momentum", "unknown key"),
        (
            ["client.optimizer={name: rmsprop, lr: 0.1, momentum: critical}"],
            "client.optimizer.momentum",
            "critical is a",
        ),
        (["strategy={name: fedopt, rule: {name: sgd, lr: safe}}"], "strategy.rule.lr", "safe is a client's"),
        (
            [BALL, "client.optimizer.dampening=0.5"],
            "client.optimizer.dampening",
            "momentum: critical needs dampening 0",
        ),
        ([BALL, "strategy={name: fednova}"], "client.optimizer.momentum", "one number for all clients"),
        ([BALL, "strategy={name: domo}"], "client.optimizer.momentum", "one number for all clients"),
        ([BALL, "strategy={name: mimelite}"], "client.optimizer.momentum", "one number for all clients"),
        (["client.optimizer.lr=safe", "strategy={name: scaffold}"], "client.optimizer.lr", "control: steps"),
        (["client.probes=[curvature, curv]"], "client.probes[1]", "did you mean 'curvature'?"),
        (["client.probes=[noise, noise]"], "client.probes", "there twice"),
        (["client.probes=[damping]", "client.optimizer={name: adam, lr: 0.1}"], "client.probes", "as a spring"),
        (["client.adapt.margin=1"], "client.adapt.margin", "expected a number > 0 and < 1"),
        (["client.measure.lanczos_steps=0"], "client.measure.lanczos_steps", "whole number >= 1"),
        (["client.probe_every=0"], "client.probe_every", "whole number >= 1"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, overrides: list[str], path: str, words: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        scenario(tmp_path, *overrides)
    assert path in str(refused.value) and words in str(refused.value)


def test_what_a_client_sets_stands_at_its_bound(tmp_path: Path) -> None:
    both = scenario(
        tmp_path, BALL, "client.optimizer.lr=safe", "client.adapt={margin: 0.3, max_lr: 0.7, every: 2}"
    ).client
    assert build_adapt(both) == Adapt(lr=True, momentum=True, margin=0.3, max_lr=0.7, every=2)
    assert client_optimizer(both)["lr"] == 0.7 and client_optimizer(both)["momentum"] == both.adapt.max_momentum
    assert build_adapt(scenario(tmp_path).client) is None
    scaffold = scenario(tmp_path, "client.optimizer.lr=safe", "strategy={name: scaffold, control: gradient}")
    assert scaffold.client.adaptive == ("lr: safe",)


def test_the_schema_knows_what_clients_know(tmp_path: Path) -> None:
    from typing import get_args

    assert get_args(schema.Probe) == PROBES and tuple(FORM_OF) == schema.SPRINGS
    here = scenario(tmp_path).client
    assert here.measure.model_dump() == {key: getattr(Measure(), key) for key in schema.Measure.model_fields}
    assert here.adapt.model_dump() == {key: getattr(Adapt(lr=True), key) for key in schema.Adapt.model_fields}
