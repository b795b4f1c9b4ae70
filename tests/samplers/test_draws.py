"""Running kernels: reproducible, resumable, and no chain depends on its neighbours."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch

from fedmomentum.samplers import (
    Cyclical,
    Dense,
    Kernel,
    batched,
    hmc,
    minibatch,
    polynomial,
    run,
    sghmc,
    sgld,
    traced,
    underdamped_langevin,
)
from fedmomentum.samplers.diagnostics import step_weighted_mean
from fedmomentum.samplers.fields import Field, field_of
from fedmomentum.samplers.gradients import gradient_of, potential_of, value_and_gradient
from fedmomentum.streams import key, torch_stream
from fedmomentum.trees import State, Tree


def potential(tree: Tree) -> torch.Tensor:
    return 0.5 * (tree["w"] ** 2).sum() + 0.5 * (tree["b"] - 1.0) ** 2 + 0.1 * tree["w"].sum() * tree["b"]


def stacked(tree: Tree) -> torch.Tensor:
    w, b = tree["w"].flatten(1), tree["b"]
    return 0.5 * w.square().sum(1) + 0.5 * (b - 1.0) ** 2 + 0.1 * w.sum(1) * b


def position(chains: int, dtype: torch.dtype = torch.float64) -> Tree:
    generator = torch_stream(0, "position")
    w = torch.randn(8, 2, 3, generator=generator, dtype=torch.float64)
    return {"w": w[:chains].to(dtype), "b": w[:chains, 0, 0].to(dtype)}


EXAMPLES = torch.randn(50, 3, generator=torch_stream(0, "examples"), dtype=torch.float64)


def loss(tree: Tree, x: torch.Tensor) -> torch.Tensor:
    return (x - tree["w"].sum(0) - tree["b"]).square().sum(-1)


KERNELS: dict[str, Callable[[], Kernel]] = {
    "sgld": lambda: sgld(potential, step_size=polynomial(scale=0.1)),
    "sghmc": lambda: sghmc(potential, step_size=0.05, friction=0.2),
    "underdamped": lambda: underdamped_langevin(potential, step_size=0.3),
    "minibatch": lambda: underdamped_langevin(estimate=minibatch(loss, [EXAMPLES], batch_size=5), step_size=0.02),
    "hmc": lambda: hmc(potential, step_size=0.3, steps=3),
    "hmc, random steps": lambda: hmc(batched(stacked), step_size=torch.tensor(0.3), steps=4, random_steps=True),
}


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[s][n], b[s][n]) for s in a for n in a[s])


@pytest.mark.parametrize("name", KERNELS)
def test_stopping_and_resuming_changes_nothing(name: str) -> None:
    """run(13) is run(6), saved to bytes, and run(7): thinning and burn-in count from the start."""
    whole = run(KERNELS[name](), position(3), 13, seed=5, thin=3, burn_in=2)
    first = run(KERNELS[name](), position(3), 6, seed=5, thin=3, burn_in=2)
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    rest = run(KERNELS[name](), None, 7, thin=3, burn_in=2, resume=torch.load(saved, weights_only=True))
    assert same(whole.state, rest.state)
    assert (whole.step, whole.seed) == (rest.step, rest.seed) == (13, 5)
    assert len(whole.samples["w"]) == 3  # draws 5, 8 and 11
    for n in whole.samples:
        assert torch.equal(whole.samples[n], torch.cat([first.samples[n], rest.samples[n]]))
    for n in whole.info:
        assert torch.equal(whole.info[n].nan_to_num(), torch.cat([first.info[n], rest.info[n]]).nan_to_num())


@pytest.mark.parametrize(("chains", "size"), [(1, 1), (3, 5), (3, 17), (16, 20)])
@pytest.mark.parametrize(("dtype", "temperature"), [(torch.float32, 1.0), (torch.float32, 0.3), (torch.float64, 0.3)])
def test_how_many_transitions_are_made_at_once_changes_no_bit(
    chains: int, size: int, dtype: torch.dtype, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, through ``step``, by sevens and all at once: rows of odd length lie at odd places in memory."""
    root = torch.randn(size, size, generator=torch_stream(1, "root"), dtype=dtype)
    metric = Dense(root @ root.T / size + torch.eye(size, dtype=dtype))
    field = Field(lambda t: t, lambda t: (0.5 * t["x"].square().sum(-1), t), closed=chains > 3)
    kernel = hmc(field, step_size=0.4, steps=5, random_steps=chains > 3, metric=metric, temperature=temperature)
    start = {"x": torch.randn(chains, size, generator=torch_stream(0, "start"), dtype=dtype)}
    whole = run(kernel, start, 70, seed=3)
    state = kernel.init(start)
    for t in range(70):
        state, info = kernel.step(key(3, "sampler", step=t), state)
        assert torch.equal(state["position"]["x"], whole.samples["x"][t])
        assert all(torch.equal(getattr(info, n), whole.info[n][t]) for n in whole.info)
    monkeypatch.setattr("fedmomentum.samplers.draws.BLOCK", 7)
    sevens = run(kernel, start, 70, seed=3)
    assert torch.equal(sevens.samples["x"], whole.samples["x"]) and same(sevens.state, whole.state)


def test_a_potential_of_stacked_points_is_that_of_one() -> None:
    """Values, gradients and draws; and a gradient in closed form beside a field is one too many."""
    at = position(5)
    one, many = field_of(potential), batched(stacked)
    for a, b in zip(one.both(at), many.both(at), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(one.gradient(at), many.gradient(at))
    draws = [run(hmc(u, step_size=0.3, steps=3), at, 5).samples for u in (potential, many)]
    torch.testing.assert_close(draws[0], draws[1])
    with pytest.raises(ValueError, match="one number a point"):
        batched(lambda t: t["w"].sum()).both(at)
    with pytest.raises(ValueError, match="gradient of its own"):
        hmc(many, gradient=one.gradient, step_size=0.1)


def test_a_potential_that_was_recorded_is_the_potential() -> None:
    """At other points and for other numbers of chains; also where a resumed run asks first."""
    field, mapped = traced(potential), field_of(potential)
    for chains in (4, 2):
        field.both(position(chains))
        at = {name: 1.5 * x - 0.3 for name, x in position(chains).items()}
        for a, b in zip(field.both(at), mapped.both(at), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)
    wanted = run(hmc(potential, step_size=0.3, steps=3), position(2), 8)
    first = run(hmc(potential, step_size=0.3, steps=3), position(2), 3)
    rest = run(hmc(traced(potential), step_size=0.3, steps=3), None, 5, resume=first.state_dict())
    torch.testing.assert_close(rest.samples["w"], wanted.samples["w"][3:], rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="one number a point"):
        traced(lambda t: t["w"].sum(-1)).both(position(2))


@pytest.mark.parametrize("name", KERNELS)
def test_chains_are_strangers(name: str) -> None:
    """Two of seven chains are what they are when they run as two."""
    many = run(KERNELS[name](), position(7), 5, seed=1).samples
    few = run(KERNELS[name](), position(2), 5, seed=1).samples
    for n in many:
        torch.testing.assert_close(many[n][:, :2], few[n], rtol=1e-12, atol=1e-14)
        assert float((many[n][-1, 0] - many[n][-1, 1]).abs().max()) > 1e-3


@pytest.mark.parametrize("name", KERNELS)
def test_seeds_are_runs_and_inputs_stay_as_they_were(name: str) -> None:
    start = position(2)
    before = {n: x.clone() for n, x in start.items()}
    one, same_seed, other = (run(KERNELS[name](), start, 4, seed=s).samples["w"] for s in (0, 0, 1))
    assert torch.equal(one, same_seed)
    assert not torch.equal(one, other)
    assert all(torch.equal(start[n], before[n]) for n in start)


@pytest.mark.parametrize("name", sorted(set(KERNELS) - {"minibatch"}))
def test_single_precision_stays_single(name: str) -> None:
    wide, narrow = (run(KERNELS[name](), position(2, t), 3).samples for t in (torch.float64, torch.float32))
    assert narrow["w"].dtype == torch.float32
    assert narrow["w"].shape == (3, 2, 2, 3)
    assert bool(torch.isfinite(narrow["w"]).all()) and wide["w"].dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"position": None}, "either a position"),
        ({"steps": 0}, "steps >= 1"),
        ({"thin": 0}, "thin >= 1"),
        ({"position": {"w": torch.zeros(3, 2), "b": torch.zeros(2)}}, "tensor 'b' has shape"),
        ({"position": {}}, "at least one tensor"),
    ],
)
def test_run_refuses(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(KERNELS["sghmc"](), **({"position": position(2), "steps": 1} | arguments))  # type: ignore[arg-type]


def test_burning_everything_leaves_no_draws() -> None:
    draws = run(KERNELS["sgld"](), position(2), 3, burn_in=5)
    assert draws.samples["w"].shape == (0, 2, 2, 3)
    assert draws.step == 3


def test_gradients_come_from_the_potential() -> None:
    at = position(4)
    values, grads = value_and_gradient(potential)(at)
    coupling = 0.1 * at["w"].sum((1, 2))
    torch.testing.assert_close(grads["w"], at["w"] + 0.1 * at["b"][:, None, None])
    torch.testing.assert_close(grads["b"], at["b"] - 1.0 + coupling)
    torch.testing.assert_close(values, torch.stack([potential({n: x[c] for n, x in at.items()}) for c in range(4)]))
    uphill = gradient_of(potential_of(lambda t: -potential(t)))(at)
    torch.testing.assert_close(uphill["w"], grads["w"])
    with pytest.raises(ValueError, match="one number a point"):
        value_and_gradient(lambda t: t["w"].sum(-1))(at)
    with pytest.raises(ValueError, match="exactly one"):
        sgld(potential, gradient=gradient_of(potential), step_size=0.1)


def test_minibatch_gradients_are_unbiased() -> None:
    """The mean over many minibatches is the gradient over all examples plus the prior's, within four errors."""
    at = position(2)
    estimate = minibatch(loss, [EXAMPLES], batch_size=10, prior=potential)
    draws = torch.stack([estimate(at, torch.tensor([2 * i, 2 * i + 1]))["w"] for i in range(400)])
    exact = gradient_of(lambda t: loss(t, EXAMPLES).sum() + potential(t))(at)["w"]
    error = draws.std(0) / 400**0.5
    assert bool(((draws.mean(0) - exact).abs() < 4 * error).all())
    assert float((error / exact.abs()).mean()) < 0.1
    assert float((draws[:, 0] - draws[:, 1]).std()) > 0.1
    with pytest.raises(ValueError, match="one length"):
        minibatch(loss, [EXAMPLES, EXAMPLES[:3]], batch_size=1)


def test_cyclical_schedule() -> None:
    cycle = Cyclical(peak=0.4, steps=100, cycles=4, exploration=0.6, heat=2.0)
    assert cycle.length == 25
    assert cycle(0) == cycle(25) == cycle(75) == 0.4
    assert cycle(5) == pytest.approx(0.2 * (1 + (1 + 5**0.5) / 4))  # cos 36 degrees
    assert all(cycle(t) > cycle(t + 1) > 0 for t in range(24))
    assert [t for t in range(50) if cycle.keeps(t)] == [*range(15, 25), *range(40, 50)]
    assert {cycle.temperature(t) for t in range(15)} == {0.0} and cycle.temperature(15) == 2.0
    with pytest.raises(ValueError, match="cycles"):
        Cyclical(peak=0.4, steps=3, cycles=4)


def two_wells(tree: Tree) -> Tree:
    """``U = -log(e^(-(x-4)^2/2) + e^(-(x+4)^2/2))``, a barrier of 7 temperatures."""
    return {"x": tree["x"] - 4 * torch.tanh(4 * tree["x"])}


@pytest.mark.parametrize("kernel", [sgld, sghmc])
def test_cycles_cross_a_barrier(kernel: Callable[..., Kernel]) -> None:
    """From one well, cycles with heat at their peak visit both; a small constant step stays where it began."""
    start = {"x": torch.full((40, 1), 4.0, dtype=torch.float64)}
    cycle = Cyclical(peak=1.9 if kernel is sgld else 3.6, steps=400, cycles=8, exploration=0.0)
    both = run(kernel(gradient=two_wells, step_size=cycle), start, 400, keep=lambda t: t % cycle.length > 40)
    stuck = run(kernel(gradient=two_wells, step_size=0.05), start, 400)
    assert len(both.samples["x"]) == 8 * 9
    left = (both.samples["x"] < 0).double().mean()
    assert 0.3 < float(left) < 0.7
    assert float((stuck.samples["x"] < 0).double().mean()) < 0.05


def test_decreasing_steps_weigh_their_samples() -> None:
    schedule = polynomial(scale=0.5, offset=2.0, power=0.6)
    assert schedule(6) == pytest.approx(0.5 * 8**-0.6)
    draws = run(
        sgld(gradient=lambda t: {"x": t["x"] - 3.0}, step_size=schedule), {"x": torch.zeros(50, 1).double()}, 300
    )
    sizes = torch.tensor([schedule(t) for t in range(300)]).double()
    torch.testing.assert_close(draws.info["step_size"][:, 0], sizes)
    weighted = (sizes[:, None] * draws.samples["x"].mean(1)).sum(0) / sizes.sum()
    torch.testing.assert_close(step_weighted_mean(draws.samples["x"], draws.info["step_size"]), weighted)
    with pytest.raises(ValueError, match="power"):
        polynomial(scale=0.1, power=0.5)
