"""Draws a second of HMC against blackjax and numpyro, one thread each: ``python -m benchmarks samplers``.

The same laws (a Gaussian of 20 dimensions; a logistic regression between two digits), chains, warm-up, draws and
leapfrog steps, in double precision. What is timed are the draws after the warm-up; compilation is done before and is
told apart. ``pip install 'fedmomentum[reference]'`` brings the other two; without them only ours is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

CHAINS, WARMUP, DRAWS, STEPS = 16, 300, 400, 10


def laws() -> dict[str, tuple[Any, Callable[[Any], Any], int]]:
    """Give each law as our target, as a log density for JAX, and its dimension."""
    import numpy as np
    import torch

    from fedmomentum.experiments.sample import two_digits
    from fedmomentum.samplers.targets import gaussian, logistic_regression
    from fedmomentum.streams import stream

    factor = stream(0, "covariance").standard_normal((20, 20))
    covariance = factor @ factor.T / 20 + 0.3 * np.eye(20)
    x, y = two_digits(3, 8, components=16)

    def normal(z: Any) -> Any:
        import jax.numpy as jnp

        return -0.5 * z @ jnp.asarray(np.linalg.inv(covariance)) @ z

    def logistic(w: Any) -> Any:
        import jax.numpy as jnp
        from jax.nn import softplus

        score = jnp.asarray(x.numpy()) @ w
        return -(softplus(score) - jnp.asarray(y.numpy()) * score).sum() - w @ w / 2

    return {
        "gaussian": (gaussian(torch.zeros(20), torch.from_numpy(covariance)), normal, 20),
        "logistic": (logistic_regression(x, y), logistic, 17),
    }


def starts(size: int) -> Any:
    """Give where all chains begin, ``[C, P]``."""
    from fedmomentum.streams import stream

    return stream(0, "start").standard_normal((CHAINS, size))


def ours(target: Any, _: Any, size: int) -> tuple[Callable[[int], Any], float]:
    """Give a function of a seed that draws ``[S, C, P]``, and the seconds of the warm-up."""
    import torch

    from fedmomentum.samplers import run, window_adaptation

    began = time.perf_counter()
    start = {"x": torch.from_numpy(starts(size))}
    warm = window_adaptation(
        target.potential, start, seed=0, gradient=target.gradient, warmup=WARMUP, steps=STEPS, mass="dense"
    )
    took = time.perf_counter() - began
    return lambda seed: run(warm.kernel, warm.position, DRAWS, seed=seed).samples["x"], took


def blackjax(_: Any, density: Any, size: int) -> tuple[Callable[[int], Any], float]:
    """The same by blackjax: window adaptation and HMC, mapped over chains and compiled."""
    import blackjax as bj
    import jax
    import torch

    began = time.perf_counter()
    warmup = bj.window_adaptation(bj.hmc, density, is_mass_matrix_diagonal=False, num_integration_steps=STEPS)
    keys = jax.random.split(jax.random.key(0), CHAINS)
    adapt = jax.jit(jax.vmap(lambda key, x: warmup.run(key, x, num_steps=WARMUP)[0]))
    states, parameters = adapt(keys, starts(size))
    kept = {k: v for k, v in parameters.items() if k != "num_integration_steps"}

    def step(states: Any, keys: Any) -> tuple[Any, Any]:
        def one(key: Any, state: Any, own: Any) -> Any:
            return bj.hmc(density, num_integration_steps=STEPS, **own).step(key, state)[0]

        states = jax.vmap(one)(keys, states, kept)
        return states, states.position

    @jax.jit
    def draw(key: Any) -> Any:
        keys = jax.random.split(key, (DRAWS, CHAINS))
        return jax.lax.scan(step, states, keys)[1]

    jax.block_until_ready(draw(jax.random.key(1)))
    took = time.perf_counter() - began
    return lambda seed: torch.tensor(jax.device_get(jax.block_until_ready(draw(jax.random.key(seed))))), took


def numpyro(_: Any, density: Any, size: int) -> tuple[Callable[[int], Any], float]:
    """The same by numpyro, chains vectorised."""
    import jax
    import torch
    from numpyro.infer import HMC, MCMC

    began = time.perf_counter()
    kernel = HMC(potential_fn=lambda x: -density(x), num_steps=STEPS, trajectory_length=None, dense_mass=True)
    sampler = MCMC(
        kernel, num_warmup=WARMUP, num_samples=DRAWS, num_chains=CHAINS, chain_method="vectorized", progress_bar=False
    )
    sampler.warmup(jax.random.key(0), init_params=jax.numpy.asarray(starts(size)))
    sampler.run(jax.random.key(1))
    took = time.perf_counter() - began

    def draw(seed: int) -> Any:
        sampler.run(jax.random.key(seed))
        found = jax.device_get(sampler.get_samples(group_by_chain=True))
        return torch.tensor(found).transpose(0, 1)

    return draw, took


def main(arguments: list[str]) -> int:
    """Measure, in turns, and print one line a law and library."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks samplers", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="timings of each, in turns")
    parser.add_argument("--json", action="store_true", help="print JSON as well")
    options = parser.parse_args(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    import torch

    from fedmomentum.samplers.diagnostics import ess

    torch.set_num_threads(1)
    libraries: dict[str, Callable[..., tuple[Callable[[int], Any], float]]] = {"fedmomentum": ours}
    try:
        import jax

        jax.config.update("jax_enable_x64", True)
        libraries |= {"blackjax": blackjax, "numpyro": numpyro}
    except ImportError:
        print("blackjax and numpyro are not installed: only ours is measured")
    table: list[dict[str, Any]] = []
    for law, (target, density, size) in laws().items():
        made = {}
        for name, make in libraries.items():
            try:
                made[name] = make(target, density, size)
            except ImportError as error:
                print(f"{name} is not installed: {error}")
        seconds: dict[str, list[float]] = {name: [] for name in made}
        effective: dict[str, list[float]] = {name: [] for name in made}
        for repeat in range(options.repeats):
            for name, (draw, _) in made.items():
                began = time.perf_counter()
                x = draw(10 + repeat)
                seconds[name].append(time.perf_counter() - began)
                effective[name].append(float(ess(x, kind="bulk").min()))
        for name, (_, warm) in made.items():
            took, worth = statistics.median(seconds[name]), statistics.median(effective[name])
            table.append(
                {
                    "law": law,
                    "library": name,
                    "draws_per_s": CHAINS * DRAWS / took,
                    "ess": worth,
                    "ess_per_s": worth / took,
                    "warmup_s": warm,
                }
            )
    print(f"{'law':10} {'library':12} {'draws/s':>10} {'ESS':>8} {'ESS/s':>10} {'warm-up and compiling, s':>25}")
    for row in table:
        print(
            f"{row['law']:10} {row['library']:12} {row['draws_per_s']:10.0f} {row['ess']:8.0f} {row['ess_per_s']:10.0f}"
            f" {row['warmup_s']:25.1f}"
        )
    if options.json:
        print(json.dumps(table))
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
