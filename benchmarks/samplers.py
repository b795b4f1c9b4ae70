"""Draws a second of HMC against blackjax and numpyro, one thread each: ``python -m benchmarks samplers``.

Two laws: a Gaussian of 20 dimensions and condition number 1000, and a logistic regression between two digits, in double
precision. First one kernel, given to this library and to blackjax: the same step size, mass and start, and a number of
leapfrog steps that is uniform from one draw to the next, so that no direction falls on a period of its own. Then each
as its own warm-up leaves it: HMC of found length here, NUTS there. An effective draw is one of the worst coordinate or
square of a coordinate (bulk ESS). ``pip install 'fedmomentum[reference]'`` brings the other two; without them only ours
is measured. ``--parts`` tells what a transition of ours is made of.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks import sampler_peers as peers
from benchmarks.sampler_parts import parts

MOST_NUMPYRO = 16
WANTED = 10_000
"""Effective draws of the last column."""


def measure(made: dict[str, peers.Ready], repeats: int) -> list[dict[str, Any]]:
    """Draw in turns, and give for each its median seconds and effective draws."""
    from fedmomentum.samplers.diagnostics import ess

    seconds: dict[str, list[float]] = {name: [] for name in made}
    worth: dict[str, list[float]] = {name: [] for name in made}
    for repeat in range(repeats):
        for name, ready in made.items():
            began = time.perf_counter()
            x = ready.draw(10 + repeat)
            seconds[name].append(time.perf_counter() - began)
            away = (x - x.mean((0, 1))).square()
            worth[name].append(float(min(ess(x, kind="bulk").min(), ess(away, kind="bulk").min())))
    rows = []
    for name, ready in made.items():
        took, effective = statistics.median(seconds[name]), statistics.median(worth[name])
        setup = ready.warmup + ready.compiling
        rows.append(
            {
                "library": name,
                "steps": ready.steps,
                "draws_per_s": x.shape[1] * x.shape[0] / took,
                "ess_per_draw": effective / (x.shape[1] * x.shape[0]),
                "ess_per_s": effective / took,
                "warmup_s": ready.warmup,
                "compiling_s": ready.compiling,
                "seconds_to_wanted": setup + WANTED * took / effective,
            }
        )
    return rows


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table; ratios are ours over theirs."""
    print(f"\n{title}")
    print(
        f"{'law':10}{'chains':>7} {'library':20}{'steps':>6}{'draws/s':>10}{'ESS/draw':>10}{'ESS/s':>10}"
        f"{'ours/theirs':>13}{'warm-up s':>11}{'compile s':>11}{'s to 10,000 effective':>23}"
    )
    own: dict[str, Any] = {}
    for row in rows:
        own = row if row["library"] == "fedmomentum" else own
        ratio = "" if row is own else f"{own['ess_per_s'] / row['ess_per_s']:.2f}"
        print(
            f"{row['law']:10}{row['chains']:7} {row['library']:20}{row['steps'] or '':>6}{row['draws_per_s']:10,.0f}"
            f"{row['ess_per_draw']:10.2f}{row['ess_per_s']:10,.0f}{ratio:>13}{row['warmup_s']:11.2f}"
            f"{row['compiling_s']:11.1f}{row['seconds_to_wanted']:23.1f}"
        )


def main(arguments: list[str]) -> int:
    """Measure, in turns, and print one line a law, number of chains and library."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks samplers", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="timings of each, in turns")
    parser.add_argument("--chains", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--parts", action="store_true", help="only what a transition of ours is made of")
    parser.add_argument("--json", action="store_true", help="print JSON as well")
    options = parser.parse_args(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    import torch

    torch.set_num_threads(1)
    if options.parts:
        return parts(options.chains)
    same: dict[str, Callable[..., peers.Ready]] = {"fedmomentum": peers.ours_same}
    own: dict[str, Callable[..., peers.Ready]] = {"fedmomentum": peers.ours}
    try:
        import jax

        jax.config.update("jax_enable_x64", True)
        import blackjax  # noqa: F401
        import numpyro  # noqa: F401

        same |= {"blackjax": peers.blackjax_same}
        own |= {"blackjax NUTS": peers.blackjax, "numpyro NUTS": peers.numpyro}
    except ImportError as error:
        print(f"only ours is measured: {error}")
    one: list[dict[str, Any]] = []
    each: list[dict[str, Any]] = []
    for law in peers.laws():
        for chains in options.chains:
            given, place = peers.settings(law, chains), {"law": law.name, "chains": chains}
            made = {name: make(law, given) for name, make in same.items()}
            one += [place | row for row in measure(made, options.repeats)]
            # numpyro draws some hundred times slower, so it is asked for few
            made = {n: make(law, chains) for n, make in own.items() if n != "numpyro NUTS" or chains <= MOST_NUMPYRO}
            each += [place | row for row in measure(made, options.repeats)]
    show("One kernel", one)
    show("Each as its warm-up leaves it", each)
    if options.json:
        print(json.dumps({"one": one, "each": each}))
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
