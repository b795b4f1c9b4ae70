"""What draws from a law for ``python -m benchmarks samplers``: this library, blackjax and numpyro, on equal terms."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WARMUP, DRAWS = 300, 400


@dataclass(frozen=True)
class Law:
    """A law, as our target and as a log density for JAX."""

    name: str
    target: Any
    density: Callable[[Any], Any]

    @property
    def size(self) -> int:
        """The number of its coordinates."""
        return int(self.target.size)


@dataclass(frozen=True)
class Ready:
    """A sampler that has only to draw, ``draw(seed)`` gives ``[S, C, P]``, and the seconds that it took to."""

    draw: Callable[[int], Any]
    warmup: float = 0.0
    compiling: float = 0.0
    steps: int = 0


@dataclass(frozen=True)
class Settings:
    """One HMC kernel for whoever runs it: where the chains begin, and what a warm-up found."""

    start: Any
    step_size: float
    steps: int
    inverse_mass: Any


def laws() -> list[Law]:
    """Give a Gaussian of 20 dimensions and condition number 1000, turned at random, and a logistic regression."""
    import numpy as np
    import torch

    from fedmomentum.experiments.sample import two_digits
    from fedmomentum.samplers.targets import gaussian, logistic_regression
    from fedmomentum.streams import stream

    axes = np.linalg.qr(stream(0, "axes").standard_normal((20, 20)))[0]
    variances = np.geomspace(0.03, 30.0, 20)
    precision = (axes / variances) @ axes.T
    x, y = two_digits(3, 8, components=16)

    def normal(z: Any) -> Any:
        import jax.numpy as jnp

        return -0.5 * z @ jnp.asarray(precision) @ z

    def logistic(w: Any) -> Any:
        import jax.numpy as jnp
        from jax.nn import softplus

        score = jnp.asarray(x.numpy()) @ w
        return -(softplus(score) - jnp.asarray(y.numpy()) * score).sum() - w @ w / 2

    covariance = torch.from_numpy((axes * variances) @ axes.T)
    return [
        Law("gaussian", gaussian(torch.zeros(20), (covariance + covariance.T) / 2), normal),
        Law("logistic", logistic_regression(x, y), logistic),
    ]


def starts(chains: int, size: int) -> Any:
    """Give where all chains begin, ``[C, P]``."""
    from fedmomentum.streams import stream

    return stream(0, "start").standard_normal((chains, size))


def settings(law: Law, chains: int) -> Settings:
    """Give what our warm-up finds with 16 chains, and where it leaves so many."""
    import torch

    from fedmomentum.samplers import run, window_adaptation

    start = {"x": torch.from_numpy(starts(16, law.size))}
    warm = window_adaptation(law.target.field, start, seed=0, warmup=WARMUP, mass="dense", steps=None)
    long = run(warm.kernel, warm.position, 400, seed=3, thin=4).samples["x"].flatten(0, 1)
    metric: Any = warm.metric
    return Settings(long[-chains:].numpy(), float(warm.step_size[0]), warm.steps, metric.inverse_mass.numpy())


def ours_same(law: Law, given: Settings) -> Ready:
    """HMC with a random number of steps, by this library."""
    import torch

    from fedmomentum.samplers import Dense, hmc, run

    metric = Dense(torch.from_numpy(given.inverse_mass))
    options = {"step_size": given.step_size, "steps": given.steps, "random_steps": True, "jitter": 0.0}
    kernel = hmc(law.target.field, metric=metric, **options)
    start = {"x": torch.from_numpy(given.start)}
    return Ready(lambda seed: run(kernel, start, DRAWS, seed=seed).samples["x"], steps=given.steps)


def blackjax_same(law: Law, given: Settings) -> Ready:
    """The same by blackjax: one number of steps for all chains, so that no chain waits for another."""
    import blackjax as bj
    import jax

    kernel = bj.hmc.build_kernel()
    inverse, chains = jax.numpy.asarray(given.inverse_mass), len(given.start)
    states = jax.vmap(lambda x: bj.hmc.init(x, law.density))(jax.numpy.asarray(given.start))

    def step(states: Any, key: Any) -> tuple[Any, Any]:
        first, second = jax.random.split(key)
        number = jax.random.randint(first, (), 1, given.steps + 1)

        def one(key: Any, state: Any) -> Any:
            return kernel(key, state, law.density, given.step_size, inverse, number)[0]

        states = jax.vmap(one)(jax.random.split(second, chains), states)
        return states, states.position

    scan = jax.jit(lambda key: jax.lax.scan(step, states, jax.random.split(key, DRAWS))[1])
    return _timed(scan, 0.0, 0.0, given.steps)


def ours(law: Law, chains: int) -> Ready:
    """HMC as our warm-up leaves it: step size, mass and length found; a chain alone is given 10 steps."""
    import torch

    from fedmomentum.samplers import run, window_adaptation

    began = time.perf_counter()
    start = {"x": torch.from_numpy(starts(chains, law.size))}
    steps = None if chains >= 4 else 10
    warm = window_adaptation(law.target.field, start, seed=0, warmup=WARMUP, mass="dense", steps=steps)
    took = time.perf_counter() - began
    return Ready(lambda seed: run(warm.kernel, warm.position, DRAWS, seed=seed).samples["x"], took, 0.0, warm.steps)


def blackjax(law: Law, chains: int) -> Ready:
    """NUTS as blackjax' window adaptation leaves it, mapped over chains and compiled."""
    import blackjax as bj
    import jax

    warmup = bj.window_adaptation(bj.nuts, law.density, is_mass_matrix_diagonal=False)
    adapt = jax.jit(jax.vmap(lambda key, x: warmup.run(key, x, num_steps=WARMUP)[0]))
    keys, start = jax.random.split(jax.random.key(0), chains), jax.numpy.asarray(starts(chains, law.size))
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        states, parameters = jax.block_until_ready(adapt(keys, start))
        seconds.append(time.perf_counter() - began)

    def step(states: Any, keys: Any) -> tuple[Any, Any]:
        def one(key: Any, state: Any, own: Any) -> Any:
            return bj.nuts(law.density, **own).step(key, state)[0]

        states = jax.vmap(one)(keys, states, parameters)
        return states, states.position

    scan = jax.jit(lambda key: jax.lax.scan(step, states, jax.random.split(key, (DRAWS, chains)))[1])
    return _timed(scan, seconds[1], seconds[0] - seconds[1], 0)


def _timed(scan: Callable[[Any], Any], warmup: float, compiling: float, steps: int) -> Ready:
    """Compile what draws, and tell what that cost."""
    import jax
    import torch

    seconds = []
    for seed in (1, 2):
        began = time.perf_counter()
        jax.block_until_ready(scan(jax.random.key(seed)))
        seconds.append(time.perf_counter() - began)

    def draw(seed: int) -> Any:
        return torch.tensor(jax.device_get(jax.block_until_ready(scan(jax.random.key(seed)))))

    return Ready(draw, warmup, compiling + seconds[0] - seconds[1], steps)


def numpyro(law: Law, chains: int) -> Ready:
    """NUTS as numpyro's warm-up leaves it, chains vectorised. Its warm-up cannot be told from compiling it."""
    import jax
    import torch
    from numpyro.infer import MCMC, NUTS

    began = time.perf_counter()
    sampler = MCMC(
        NUTS(potential_fn=lambda x: -law.density(x), dense_mass=True),
        num_warmup=WARMUP,
        num_samples=DRAWS,
        num_chains=chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    start = jax.numpy.asarray(starts(chains, law.size))
    sampler.warmup(jax.random.key(0), init_params=start[0] if chains == 1 else start)
    sampler.run(jax.random.key(1))
    took = time.perf_counter() - began

    def draw(seed: int) -> Any:
        sampler.run(jax.random.key(seed))
        return torch.tensor(jax.device_get(sampler.get_samples(group_by_chain=True))).transpose(0, 1)

    return Ready(draw, 0.0, took)
