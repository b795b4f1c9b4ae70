"""Measurements of clients against closed forms and plain loops; and training does not notice them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedmomentum.analogies import batch_norm, linear, phase_space, spring
from fedmomentum.clients import adaptive
from fedmomentum.clients.batches import plan
from fedmomentum.clients.curvature import bend, client_loss, felt
from fedmomentum.clients.measuring import PROBES, Adapt, Measure
from fedmomentum.clients.network import Network
from fedmomentum.clients.path import Sketch
from fedmomentum.clients.worker import Worker
from fedmomentum.errors import UserError

from .federation import EVERYONE, SIZES, federation, records, spec, train_task
from .test_training import close, reference

ALL = tuple(name for name in PROBES if name != "batch_norm")


def logistic(**settings):
    """Multinomial regression from zero: its Hessian is known."""
    return spec("logistic", options={}, **settings)


def hessian_top(x: np.ndarray, classes: int = 3) -> float:
    """Largest eigenvalue at zero weights: that of (I - 11^T/C)/C, 1/C, times that of the mean of (x, 1)(x, 1)^T."""
    rows = np.hstack([x.reshape(len(x), -1), np.ones((len(x), 1))]).astype(np.float64)
    return float(np.linalg.eigvalsh(rows.T @ rows / len(x))[-1]) / classes


def walk(wanted, data, client, server_round=1):
    """Follow a plain torch loop; give gradients, places, running means and the module."""
    network = Network(wanted.model)
    module = network.module.train()
    hyper = {k: v for k, v in wanted.optimizer.items() if k != "name"}
    optimizer = torch.optim.SGD(module.parameters(), **hyper)
    x, y = data.train_arrays(client)
    seen = {"gradients": [], "points": [], "running": [], "truth": []}
    for rows in plan(wanted, len(y), round=server_round, client=client):
        rows = rows[rows >= 0]
        optimizer.zero_grad()
        F.cross_entropy(module(torch.from_numpy(x[rows])), torch.from_numpy(y[rows])).backward()
        seen["gradients"].append(torch.cat([p.grad.reshape(-1) for p in module.parameters()]).clone())
        seen["points"].append(torch.cat([p.detach().reshape(-1) for p in module.parameters()]).clone())
        if network.buffers:
            seen["running"].append(_means(module.state_dict()))
            seen["truth"].append(_means(batch_norm.recalibrate(module, [torch.from_numpy(np.ascontiguousarray(x))])))
        optimizer.step()
    return {name: torch.stack(rows) for name, rows in seen.items() if rows}, module


def _means(tree):
    return torch.cat([t.reshape(-1) for n, t in tree.items() if n.endswith("running_mean")]).clone()


def column(result, name):
    return dict(zip(map(int, result.members["client"]), result.members[name], strict=True))


class TestCurvature:
    @pytest.mark.parametrize("vectorize", ["on", "off"])
    def test_of_logistic_regression(self, vectorize):
        data = federation()
        wanted = logistic(vectorize=vectorize, measure=Measure(("curvature", "damping", "stability"), lanczos_steps=40))
        result = Worker(wanted, data).run(train_task(), records(wanted))
        found = {name: column(result, f"probe_{name}") for name in ("curvature", "damping", "stability", "stable_lr")}
        for client in EVERYONE:
            h = hessian_top(data.train_arrays(client)[0])
            assert found["curvature"][client] == pytest.approx(h, rel=1e-4)
            here = spring.predict(lr=0.1, curvature=h, momentum=0.9)
            assert found["damping"][client] == pytest.approx(here.damping_ratio, rel=1e-3)
            assert found["stability"][client] == pytest.approx(3.8 / (0.1 * h), rel=1e-4)
            assert found["stable_lr"][client] == pytest.approx(3.8 / h, rel=1e-4)
        assert all(value >= -1e-5 for value in result.members["probe_curvature_smallest"])  # convex

    def test_along_the_gradient(self):
        data, wanted = federation(), logistic(measure=Measure(("curvature",)))
        result = Worker(wanted, data).run(train_task((0,)), records(wanted))
        network = Network(wanted.model)
        x, y = (torch.from_numpy(a) for a in data.train_arrays(0))
        loss = client_loss(network, network.tree(), x, y)
        params = {name: p.detach() for name, p in network.params.items()}
        g = torch.cat([p.reshape(-1) for p in torch.func.grad(loss)(params).values()])
        line = lambda t: loss({n: p - t * d for (n, p), d in zip(params.items(), _like(g / g.norm(), params))})  # noqa: E731, B905
        second = torch.func.hessian(line)(torch.zeros(()))
        assert result.members["probe_curvature_along"][0] == pytest.approx(float(second), rel=1e-4)

    def test_decay_and_pulls_stiffen_what_the_rule_feels(self):
        wanted = spec(optimizer={"name": "sgd", "lr": 0.1, "weight_decay": 0.5})
        assert felt(wanted, 2.0) == 2.5
        assert felt(replace(wanted, optimizer={**wanted.optimizer, "decay": "decoupled"}), 2.0) == 2.0
        assert felt(replace(wanted, method="fedprox", method_options={"mu": 1.0}), 2.0) == 3.5
        assert felt(replace(wanted, method="feddyn", method_options={"alpha": 0.25}), 2.0) == 2.75
        assert felt(replace(wanted, method="fedcm", method_options={"alpha": 0.1}), 2.0) == pytest.approx(0.7)

    def test_differences_do_for_models_that_cannot_be_differentiated_twice(self):
        network = Network(spec("gru", shape=(6,), options={"hidden": 8, "layers": 1}).model)
        draw = torch.Generator().manual_seed(0)
        x, y = torch.randint(3, (20, 6), generator=draw), torch.randint(3, (20, 6), generator=draw)
        params = {name: p.detach() for name, p in network.params.items()}
        loss = client_loss(network, network.tree(), x, y)
        twice, once = (bend(loss, params, steps=8, seed=0, examples=20, twice=twice) for twice in (True, False))
        assert once.ritz.largest == pytest.approx(twice.ritz.largest, rel=1e-3)

    def test_a_sample_bounds_the_cost(self):
        data = federation()
        wanted = logistic(measure=Measure(("curvature",), lanczos_steps=3, examples=10))
        result = Worker(wanted, data).run(train_task(), records(wanted))
        for client, cost in column(result, "probe_gradients").items():
            assert cost <= min(SIZES[client], 10) * (2 + 2 * 4)  # two gradients, three products and one along it


def _like(flat, params):
    return [
        part.view(p.shape)
        for part, p in zip(flat.split([p.numel() for p in params.values()]), params.values(), strict=True)
    ]


class TestAlongThePath:
    @pytest.mark.parametrize("vectorize", ["on", "off"])
    def test_of_a_plain_loop(self, vectorize):
        data = federation()
        wanted = spec(epochs=3, vectorize=vectorize, measure=Measure(("noise", "irreversibility", "drift")))
        result = Worker(wanted, data).run(train_task(), records(wanted))
        for client in EVERYONE:
            seen, module = walk(wanted, data, client)
            g = seen["gradients"].double()
            end = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
            assert column(result, "probe_drift")[client] == pytest.approx(
                float((end - seen["points"][0]).norm()), rel=1e-3
            )
            noise = float((g[1:] - g[:-1]).square().sum(1).mean() / 2)
            assert column(result, "probe_noise")[client] == pytest.approx(noise, rel=1e-3)
            signal = float(g.mean(0).square().sum()) - noise / len(g)
            assert column(result, "probe_signal")[client] == pytest.approx(signal, rel=1e-2, abs=1e-3)
            batch = min(8, SIZES[client])
            if signal > 1e-2:
                assert column(result, "probe_noise_scale")[client] == pytest.approx(batch * noise / signal, rel=0.05)
            if len(g) >= 12:
                arrow = phase_space.probe(seen["points"])
                assert column(result, "probe_irreversibility")[client] == pytest.approx(arrow.index, rel=1e-2)
            else:
                assert math.isnan(column(result, "probe_irreversibility")[client])

    def test_heat_is_per_parameter(self):
        data, wanted = federation(), spec(epochs=3, measure=Measure(("noise",)))
        result = Worker(wanted, data).run(train_task((0,)), records(wanted))
        parameters = sum(a.size for a in records(wanted)["arrays"].values())
        heat = 0.1 * result.members["probe_noise"][0] / parameters / (2 * (1 - 0.9))
        assert result.members["probe_temperature"][0] == pytest.approx(heat, rel=1e-6)

    def test_only_the_last_steps_are_followed(self):
        data = federation()
        wanted = spec(epochs=3, measure=Measure(("noise",), path_steps=5))
        result = Worker(wanted, data).run(train_task((0,)), records(wanted))
        g = walk(wanted, data, 0)[0]["gradients"].double()[-5:]
        assert result.members["probe_noise"][0] == pytest.approx(
            float(g.diff(dim=0).square().sum(1).mean() / 2), rel=1e-3
        )

    def test_batch_norm(self):
        shape = (1, 8, 8)
        data = federation((48, 40), shape=shape)
        options = {"depth": 8, "width": 2, "norm": "batch"}
        optimizer = {"name": "heavy_ball", "lr": 0.05, "momentum": 0.5}
        wanted = spec(
            "resnet", shape=shape, options=options, optimizer=optimizer, epochs=2, measure=Measure(("batch_norm",))
        )
        result = Worker(wanted, data).run(train_task((0, 1)), records(wanted))
        seen, _ = walk(wanted, data, 0)
        lag = batch_norm.probe(seen["running"], seen["truth"])
        assert result.members["probe_batch_norm_lag"][0] == pytest.approx(lag, abs=0.1)
        assert 0 < result.members["probe_batch_norm_gap"][0] < 2

    def test_a_sketch_keeps_lengths_and_is_linear(self):
        draw = torch.Generator().manual_seed(1)
        a, b = torch.randn(2, 30_000, generator=draw)
        sketch = Sketch(30_000, seed=0)
        torch.testing.assert_close(sketch([a + 2 * b]), sketch([a]) + 2 * sketch([b]), atol=1e-4, rtol=1e-4)
        assert float(sketch([a]).norm() / a.norm()) == pytest.approx(1, abs=0.1)
        assert float(sketch([a]) @ sketch([b])) / float(a.norm() * b.norm()) == pytest.approx(0, abs=0.1)
        assert torch.equal(Sketch(50, seed=0)([a[:50]]), a[:50])


class TestTrainingDoesNotNotice:
    @pytest.mark.parametrize("vectorize", ["on", "off"])
    def test_the_bits_of_the_models(self, vectorize):
        data = federation()
        plain = spec(vectorize=vectorize, epochs=2, keep_state=True)
        probed = replace(plain, measure=Measure(ALL))
        off, on = (Worker(wanted, data).run(train_task(), records(plain)) for wanted in (plain, probed))
        for a, b in zip(off.each, on.each, strict=True):
            for name, value in a["arrays"].items():
                np.testing.assert_array_equal(value, b["arrays"][name])
        for name in off.members:
            assert off.members[name] == on.members[name]
        for client, state in off.memory.items():
            for slot, tree in state.items():
                assert all(torch.equal(t, on.memory[client][slot][n]) for n, t in tree.items())
        assert not any(name.startswith("probe_") for name in off.members)

    def test_nothing_is_measured_in_between(self):
        wanted = spec(measure=Measure(ALL, every=3))
        worker = Worker(wanted, federation())
        told = [worker.run(train_task(round=r), records(wanted)).members for r in (1, 2, 3, 4)]
        assert [any(name.startswith("probe_") for name in members) for members in told] == [True, False, False, True]
        assert Worker(spec(), federation())._prober is None

    @pytest.mark.parametrize("vectorize", ["on", "off"])
    def test_a_client_measures_the_same_in_any_block(self, vectorize):
        data = federation()
        wanted = spec(vectorize=vectorize, epochs=2, measure=Measure(ALL), adapt=Adapt(momentum=True))
        whole = Worker(wanted, data).run(train_task(), records(wanted))
        for client in EVERYONE:
            alone = Worker(wanted, data).run(train_task((client,)), records(wanted))
            for name, values in alone.members.items():
                if (name.startswith("probe_") and name != "probe_seconds") or name == "momentum":
                    np.testing.assert_equal(column(whole, name)[client], values[0], err_msg=name)

    def test_a_client_that_fails_takes_nobody_along(self):
        data = federation(poison=2)
        wanted = spec(measure=Measure(ALL), adapt=Adapt(momentum=True), vectorize="off")
        result = Worker(wanted, data).run(train_task(), records(wanted))
        assert [failure.client for failure in result.failures] == [2]
        assert sorted(map(int, result.members["client"])) == [0, 1, 3, 4, 5]
        assert {len(values) for values in result.members.values()} == {5}


class TestAdaptation:
    @pytest.mark.parametrize("vectorize", ["on", "off"])
    @pytest.mark.parametrize(("rule", "nesterov"), [("heavy_ball", False), ("nesterov", True)])
    def test_critical_momentum_is_the_closed_form_and_is_what_trains(self, vectorize, rule, nesterov):
        data = federation()
        wanted = logistic(
            optimizer={"name": rule, "lr": 0.01, "momentum": 0.9},
            adapt=Adapt(momentum=True, max_momentum=0.99),
            measure=Measure(lanczos_steps=40),
            vectorize=vectorize,
            epochs=2,
        )
        result = Worker(wanted, data).run(train_task(), records(wanted))
        betas = column(result, "momentum")
        for client, trained in zip(map(int, result.members["client"]), result.each, strict=True):
            root = math.sqrt(0.01 * hessian_top(data.train_arrays(client)[0]))
            beta = (1 - root) / (1 + root) if nesterov else (1 - root) ** 2
            assert betas[client] == pytest.approx(beta, rel=1e-3)
            make = lambda p, b=betas[client]: torch.optim.SGD(p, lr=0.01, momentum=b, nesterov=nesterov)  # noqa: E731
            close(trained["arrays"], reference(wanted, data, client, make), 1e-5)

    @pytest.mark.parametrize("vectorize", ["on", "off"])
    def test_safe_rate_is_the_closed_form_and_is_what_trains(self, vectorize):
        data = federation()
        wanted = logistic(
            optimizer={"name": "sgd", "lr": 9.0},
            adapt=Adapt(lr=True, margin=0.5, max_lr=9.0),
            measure=Measure(lanczos_steps=40),
            vectorize=vectorize,
            lr_schedule=half,
        )
        result = Worker(wanted, data).run(train_task(), records(wanted))
        rates = column(result, "lr")
        for client, trained in zip(map(int, result.members["client"]), result.each, strict=True):
            assert rates[client] == pytest.approx(0.5 / hessian_top(data.train_arrays(client)[0]), rel=1e-3)
            make = lambda p, lr=rates[client]: torch.optim.SGD(p, lr=lr)  # noqa: E731
            close(trained["arrays"], reference(wanted, data, client, make), 1e-5)

    @pytest.mark.parametrize("form", linear.FORMS)
    def test_the_choice_on_a_quadratic(self, form):
        for h in (0.3, 4.0, 60.0):
            _, beta = adaptive.chosen(Adapt(momentum=True), form, h, lr=0.01, momentum=0.5)
            here = linear.radius(form, 0.01 * h, beta)
            others = [linear.radius(form, 0.01 * h, b) for b in np.linspace(0, 0.99, 199)]
            assert here <= min(others) + 1e-6 or beta == 0.95
            lr, _ = adaptive.chosen(Adapt(lr=True, margin=0.9, max_lr=1e9), form, h, lr=0.0, momentum=0.8)
            assert linear.radius(form, lr * h, 0.8) < 1 < linear.radius(form, lr * h / 0.9 * 1.01, 0.8)
            both = Adapt(lr=True, momentum=True, margin=0.2, max_lr=1e9, max_momentum=0.99)
            lr, beta = adaptive.chosen(both, form, h, lr=0.0, momentum=0.0)
            assert lr * h == pytest.approx(0.4) and beta == pytest.approx(linear.critical_momentum(form, 0.4))

    @pytest.mark.parametrize("h", [-1.0, 0.0, math.nan])
    def test_without_positive_curvature_the_bounds_decide(self, h):
        both = Adapt(lr=True, momentum=True, max_lr=0.3, max_momentum=0.8)
        assert adaptive.chosen(both, "heavy_ball", h, lr=1.0, momentum=0.1) == (0.3, 0.8)

    def test_past_the_fastest_plain_step_there_is_no_momentum(self):
        assert adaptive.chosen(Adapt(momentum=True), "heavy_ball", 5.0, lr=1.0, momentum=0.9) == (1.0, 0.0)

    def test_curvature_is_kept_until_it_is_due_again(self):
        data = federation()
        wanted = spec(adapt=Adapt(momentum=True, every=2), keep_state=True)
        worker, memory, arrays, betas, costs = Worker(wanted, data), {}, records(wanted)["arrays"], [], []
        for server_round in (1, 2, 3):
            result = worker.run(train_task((0,), round=server_round, memory=memory), {"arrays": arrays})
            memory, arrays = result.memory, result.each[0]["arrays"]
            betas.append(result.members["momentum"][0])
            costs.append(result.members["probe_gradients"][0])
        assert betas[0] == betas[1] != betas[2]
        assert costs[1] == 0 < costs[0] == costs[2]

    def test_clipping_and_other_halves_go_with_it(self):
        data = federation()
        for settings in ({"clip_norm": 0.5}, {"method": "fedprox", "method_options": {"mu": 0.1}}):
            both = [
                Worker(spec(vectorize=v, adapt=Adapt(momentum=True), **settings), data).run(
                    train_task(), records(spec())
                )
                for v in ("on", "off")
            ]
            ends = [dict(zip(r.members["client"], r.each, strict=True)) for r in both]
            for client in ends[0]:
                close(ends[0][client]["arrays"], ends[1][client]["arrays"], 1e-5)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"optimizer": {"name": "adam", "lr": 0.1}}, "not for the optimizer 'adam'; take one of heavy_ball"),
            ({"optimizer": {"name": "sgd", "lr": 0.1}}, "not for the optimizer 'sgd'; take one of heavy_ball"),
            ({"optimizer": {"name": "heavy_ball", "lr": 0.1, "dampening": 0.5}}, "dampening 0"),
            ({"method": "fednova"}, "does not go with 'fednova'"),
            ({"method": "scaffold"}, "scaffold with control: steps"),
        ],
    )
    def test_where_it_does_not_fit(self, settings, message):
        with pytest.raises(UserError, match=message):
            Worker(spec(adapt=Adapt(momentum=True), **settings), federation())


def half(server_round):
    return 0.5


@pytest.mark.parametrize("bad", [{"probes": ("heat",)}, {"every": 0}, {"lanczos_steps": 0}])
def test_measures_are_checked(bad):
    with pytest.raises(ValueError, match=r"heat|at least 1"):
        Measure(**bad)


@pytest.mark.parametrize(
    "bad", [{}, {"lr": True, "margin": 1.0}, {"lr": True, "max_lr": 0.0}, {"momentum": True, "every": 0}]
)
def test_bounds_are_checked(bad):
    with pytest.raises(ValueError, match=r"adapted|margin"):
        Adapt(**bad)
