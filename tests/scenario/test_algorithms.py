"""Strategies with a client half: one name brings both, and what does not go together is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmomentum.scenario import ScenarioError, load

SCENARIO = """
kind: federated
question: Does it fit?
rounds: 5
data: {name: digits, partition: {name: iid, clients: 4}}
model: {name: logistic}
client: {optimizer: {name: sgd, lr: 0.1}}
strategy: {name: fedavg}
engine: {name: inline}
"""


def scenario(tmp_path: Path, *overrides: str):  # type: ignore[no-untyped-def]
    file = tmp_path / "s.yaml"
    file.write_text(SCENARIO)
    return load(file, list(overrides)).arms[0].scenario


@pytest.mark.parametrize(
    ("overrides", "path", "words"),
    [
        (["strategy={name: scaffold}", "client.optimizer={name: adam, lr: 0.1}"], "client.optimizer.name", "gradients"),
        (["strategy={name: fednova}", "client.optimizer={name: adam, lr: 0.1}"], "client.optimizer.name", "gradients"),
        (["strategy={name: fednag}"], "client.optimizer.name", "velocities"),
        (["strategy={name: mime}", "client.state=keep"], "client.state", "the server's"),
        (["strategy={name: fedprox}", "client.method={name: fedprox, mu: 1}"], "client.method", "of its own"),
        (["strategy={name: scaffold, aggregator: {name: median}}"], "strategy.aggregator", "more than models"),
        (["strategy={name: fedexp, clip_update: 1}"], "strategy.clip_update", "more than models"),
        (["strategy={name: fedavgm, privacy: {clip: 1, noise_multiplier: 1}}"], "participation.name", "bernoulli"),
        (
            [
                "strategy={name: fedavg, privacy: {clip: 1, noise_multiplier: 1}}",
                "participation={name: bernoulli, probability: 0.5, availability: {name: cyclic}}",
            ],
            "participation.availability",
            "always there",
        ),
        (
            ["strategy={name: slowmo, privacy: {clip: 1, noise_multiplier: 1}}"],
            "strategy.privacy",
            "more than the mean",
        ),
        (["strategy={name: scaffold, privacy: {clip: 1, noise_multiplier: 1}}"], "strategy.privacy", "than the mean"),
        (
            ["strategy={name: fedavg, clip_update: 1, privacy: {clip: 1, noise_multiplier: 1}}"],
            "strategy.clip_update",
            "itself",
        ),
        (["strategy={name: fedbn}", "client.batch_norm=freeze"], "client.batch_norm", "fedbn"),
        (["strategy.step_schedule={name: constant, warmup: 9}"], "strategy.step_schedule.warmup", "fewer rounds"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, overrides: list[str], path: str, words: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        scenario(tmp_path, *overrides)
    assert path in str(refused.value) and words in str(refused.value)


def test_what_goes_together_is_taken(tmp_path: Path) -> None:
    scenario(tmp_path, "strategy={name: scaffold, control: gradient}", "client.optimizer={name: adam, lr: 0.1}")
    scenario(tmp_path, "strategy={name: fedadam, aggregator: {name: krum, byzantine: 1}}")
    ends = scenario(tmp_path, "strategy.step_schedule={name: cosine}").settled().strategy.step_schedule
    assert ends.rounds == 5


@pytest.mark.parametrize(
    ("overrides", "method", "options"),
    [
        ([], "local_sgd", {}),
        (["strategy={name: fedprox, proximal_mu: 0.3}"], "fedprox", {"mu": 0.3}),
        (["strategy={name: fedavgm}", "client.method={name: fedprox, mu: 0.2}"], "fedprox", {"mu": 0.2}),
        (["strategy={name: scaffold}"], "scaffold", {"control": "steps"}),
        (["strategy={name: fedadc, server_momentum: 0.5}"], "fedadc", {"local_momentum": 0.5}),
        (["strategy={name: domo, fusion: 0.5}"], "domo", {"fusion": 0.5, "spread": False}),
        (["strategy={name: mime}"], "mime", {}),
    ],
)
def test_one_name_brings_both_halves(tmp_path: Path, overrides: list[str], method: str, options: dict) -> None:  # type: ignore[type-arg]
    from fedmomentum.build import build

    federation = build(scenario(tmp_path, *overrides))
    assert (federation.spec.method, dict(federation.spec.method_options)) == (method, options)


def test_arms_with_different_client_halves_do_not_share_workers(tmp_path: Path) -> None:
    import fedmomentum as fm

    file = tmp_path / "s.yaml"
    file.write_text(SCENARIO + "arms: {plain: {}, exp: {strategy: {name: fedexp}}}\n")
    arms = fm.run(file, overrides=["rounds=2"], out=tmp_path).arms
    assert [row["failures"] for rows in arms.values() for row in rows if row["round"]] == [0, 0, 0, 0]


def test_fedexp_is_judged_by_the_mean_of_its_last_two_models(tmp_path: Path) -> None:
    import numpy as np
    from flwr.app import ArrayRecord

    from fedmomentum.build import build

    federation = build(scenario(tmp_path, "strategy={name: fedexp}"))
    shapes = {name: tuple(x.shape) for name, x in federation.network.tree().items()}
    now = ArrayRecord({name: _array(np.full(shape, 3.0, np.float32)) for name, shape in shapes.items()})
    before = {name: np.full(shape, 1.0, np.float32) for name, shape in shapes.items()}
    import torch

    federation.strategy.carry("before", {name: torch.from_numpy(x) for name, x in before.items()})
    judged = federation.strategy.evaluated(now)
    assert all((array.numpy() == 2.0).all() for array in judged.values())
    assert federation.evaluate(1, now)["loss"] == pytest.approx(np.log(10.0), rel=1e-5)
    assert all((p == 2.0).all() for p in federation.network.params.values())


def _array(x):  # type: ignore[no-untyped-def]
    from flwr.app import Array

    return Array(x)
