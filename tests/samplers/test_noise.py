"""Counter-based noise: the right law, and every number a function of its own key alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from fedmomentum.samplers import noise, run, sghmc, sgld, underdamped_langevin
from fedmomentum.samplers.transition import Luck
from fedmomentum.streams import key, torch_stream
from fedmomentum.trees import Tree

KEYS = noise.chain_keys(torch_stream(7, "noise"), 64)


def test_words_are_splitmix64_of_labels() -> None:
    """Against the finaliser in Python's unbounded integers."""

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    keys = [0, 1, -1, 2**63 - 1, -(2**63)]
    wanted = [[mix((k % 2**64) ^ mix(i * 0x9E3779B97F4A7C15 % 2**64)) for i in range(5)] for k in keys]
    found = [[w % 2**64 for w in row] for row in noise.words(torch.tensor(keys), 5).tolist()]
    assert found == wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_are_normal_and_uniforms_uniform(dtype: torch.dtype) -> None:
    z = noise.normals(KEYS, 3001, dtype)
    assert z.dtype == dtype
    assert stats.kstest(z.flatten().double().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(noise.uniforms(KEYS, 3001).flatten().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("axis", ["positions", "chains", "steps", "purposes"])
def test_neighbours_are_uncorrelated(axis: str) -> None:
    numbers = torch.arange(2000)
    table = {
        "positions": noise.normals(KEYS, 2000),
        "chains": noise.normals(noise.chain_keys(torch_stream(1, "x"), 2000), 64).T,
        "steps": torch.stack([noise.normals(noise.fold(KEYS[0], n), 64) for n in numbers], 1),
        "purposes": torch.cat([noise.normals(KEYS, 1000), noise.normals(noise.fold(KEYS, 1), 1000)], 1),
    }[axis]
    lags = (1, 2, 1000) if axis == "purposes" else (1, 2, 3, 1000)
    for lag in lags:
        pairs = table[:, :-lag] * table[:, lag:]
        assert abs(float(pairs.mean())) < 4.5 / np.sqrt(pairs.numel())


def test_a_chain_draws_the_same_whoever_runs_beside_it() -> None:
    few, many = (noise.chain_keys(torch_stream(3, "x", step=2), n) for n in (2, 50))
    tree = {"a": torch.zeros(50, 3, 2), "b": torch.zeros(50)}
    big, small = noise.normal_like(many, tree), noise.normal_like(few, {n: x[:2] for n, x in tree.items()})
    assert torch.equal(few, many[:2])
    assert all(torch.equal(small[n], big[n][:2]) for n in tree)


def test_integers_fill_their_range_evenly() -> None:
    counts = torch.bincount(noise.integers(KEYS, 2000, 7).flatten(), minlength=7)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_a_generator_is_asked_for_one_number() -> None:
    one, other = torch_stream(0, "x"), torch_stream(0, "x")
    noise.chain_keys(one, 3)
    noise.chain_keys(other, 300)
    assert torch.equal(one.get_state(), other.get_state())


def test_purposes_side_by_side_are_those_one_by_one() -> None:
    assert torch.equal(noise.folds(KEYS, 3), torch.stack([noise.fold(KEYS, n) for n in range(3)], -1))


def test_a_chains_key_is_the_mix_of_its_number_and_the_generators() -> None:
    drawn = torch.randint(-(2**63), 2**63 - 1, (1,), generator=torch_stream(7, "noise"))
    assert torch.equal(noise.fold(drawn, torch.arange(64)), KEYS)


def uncorrelated(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Say whether two columns of independent pairs are: within 4.5 standard errors."""
    a, b = (x.double() - x.double().mean() for x in (a.flatten(), b.flatten()))
    return abs(float((a * b).mean() / a.std() / b.std())) < 4.5 / a.numel() ** 0.5


KERNELS = {
    "sgld": lambda estimate: sgld(estimate=estimate, step_size=0.5),
    "sghmc": lambda estimate: sghmc(estimate=estimate, step_size=0.5, friction=1.0),
    "underdamped_langevin": lambda estimate: underdamped_langevin(estimate=estimate, step_size=1.0, friction=40.0),
}


@pytest.mark.parametrize("name", KERNELS)
def test_what_a_kernel_injects_and_the_noise_of_its_gradients_come_from_streams_of_their_own(name: str) -> None:
    """Bits are no contract, independence is: of chains, of steps, and of the keys that a gradient's noise is made from."""
    chains, size, steps, keys = 3000, 4, 4, []

    def estimate(position: Tree, given: torch.Tensor) -> Tree:
        keys.append(given)
        return {"x": torch.zeros_like(position["x"])}

    run_of = run(KERNELS[name](estimate), {"x": torch.zeros(chains, size).double()}, steps, seed=5)
    path = torch.cat([torch.zeros(1, chains, size), run_of.samples["x"]])
    moves, of_steps = path.diff(dim=0), keys[-steps:]
    # a move of BAOAB is half of the velocity before it, so two moves in a row share one
    apart = 2 if name == "underdamped_langevin" else 1
    for t, move in enumerate(moves):
        assert uncorrelated(move[1:], move[:-1]) and uncorrelated(move[:, 1:], move[:, :-1])
        assert all(uncorrelated(move, moves[s]) for s in range(t + apart, steps))
        for own in of_steps:
            for noise_of_gradient in (noise.normals(own, size), noise.normals(noise.fold(own, 0), size)):
                assert uncorrelated(move, noise_of_gradient)
                assert uncorrelated(move.square(), noise_of_gradient.square())
    assert len(torch.unique(torch.stack(keys))) == sum(some.numel() for some in keys)


def test_the_numbers_of_a_transition_of_hmc_come_from_streams_of_their_own() -> None:
    steps, chains = 400, 50
    luck = Luck.draw([key(2, "sampler", step=t) for t in range(steps)], torch.zeros(chains, 3).double())
    chance = (-luck.patience).exp()
    assert stats.kstest(chance.flatten().numpy(), "uniform").pvalue > 1e-3
    share, shake = torch.tensor(luck.share), torch.tensor(luck.shake)
    assert stats.kstest(share.numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(shake.numpy() / 2 + 0.5, "uniform").pvalue > 1e-3
    assert uncorrelated(share, shake) and uncorrelated(share[1:], share[:-1]) and uncorrelated(shake[1:], shake[:-1])
    for momenta in (luck.normals, luck.normals.square()):
        for axis in range(3):
            assert uncorrelated(momenta[:, :, axis], chance)
            assert uncorrelated(momenta[:, 0, axis], share) and uncorrelated(momenta[:, 0, axis], shake)
    assert uncorrelated(chance[:, 0], share) and uncorrelated(chance[:, 0], shake)
    assert uncorrelated(chance[1:], chance[:-1]) and uncorrelated(chance[:, 1:], chance[:, :-1])


def test_keys_of_steps_side_by_side_are_those_one_by_one() -> None:
    numbers = [0, 5, -(2**63), 2**63 - 1]
    wanted = torch.stack([noise.chain_keys(n, 3) for n in numbers])
    assert torch.equal(noise.step_keys(numbers, 3), wanted)
    assert torch.equal(noise.chain_keys(5, 3), noise.fold(torch.tensor(5), torch.arange(3)))
