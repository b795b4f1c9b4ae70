"""What a transition of HMC is made of: ``python -m benchmarks samplers --parts``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

BLOCK = 64


def once(call: Callable[[], Any], *, number: int = 300, tries: int = 9) -> float:
    """Give the microseconds of a call: the best of several averages, since others only ever make it slower."""
    for _ in range(10):
        call()
    best = float("inf")
    for _ in range(tries):
        began = time.perf_counter()
        for _ in range(number):
            call()
        best = min(best, (time.perf_counter() - began) / number)
    return 1e6 * best


def parts(chains: list[int]) -> int:
    """Time each part alone, on both laws."""
    from benchmarks import sampler_peers as peers

    for law in peers.laws():
        for count in chains:
            given = peers.settings(law, count)
            print(f"\n{law.name}, {count} chains, {given.steps} leapfrog steps: microseconds")
            for name, value in times_of(law, given).items():
                print(f"  {name:68}{value:8.1f}")
    return 0


def times_of(law: Any, given: Any) -> dict[str, float]:
    """Give the microseconds of the parts of a transition."""
    import torch

    from fedmomentum.samplers import Dense, batched, hmc, traced
    from fedmomentum.samplers.fields import field_of
    from fedmomentum.samplers.leapfrog import kick
    from fedmomentum.samplers.transition import Luck, Point, flow_of, transition
    from fedmomentum.streams import key

    start, step, steps = {"x": torch.from_numpy(given.start)}, given.step_size, given.steps
    metric = Dense(torch.from_numpy(given.inverse_mass))
    kernel = hmc(law.target.field, step_size=step, steps=steps, metric=metric, jitter=0.0)
    state, flow = kernel.init(start), flow_of(law.target.field, start)
    point, keys = Point.of(state), [key(0, "parts", step=t) for t in range(BLOCK)]
    luck, scan = Luck.draw(keys, point.position), kernel.scan
    noise, patience = luck.normals[0], luck.patience[0]
    heat, x, p, force = noise.square().sum(-1) * 0.5, point.position, metric.momentum(noise), point.force
    assert scan is not None
    recorded = traced(law.target.potential)
    many, one_point = batched(lambda tree: law.target.field.both(tree)[0]), field_of(law.target.potential)

    def whole(number: int) -> Any:
        return transition(flow, point, noise, heat, patience, step_size=step, steps=number, metric=metric)

    def random() -> Any:
        return Luck.draw([key(0, "parts", step=t) for t in range(BLOCK)], x)

    one, two, gradient = once(lambda: whole(1)), once(lambda: whole(2)), once(lambda: flow.gradient(x))
    rest = one - (two - one)
    return {
        "a leapfrog step": two - one,
        "  its gradient": gradient,
        "  the same of batched(U), differentiated": once(lambda: many.gradient({"x": x})),
        "  the same of traced(U), played back": once(lambda: recorded.gradient({"x": x})),
        "  the same of a U of one point, mapped and differentiated": once(lambda: one_point.gradient({"x": x})),
        "  its drift": once(lambda: metric.drift(x, p, step)),
        "  its kick": once(lambda: kick(p, force, step, 1.0)),
        "the rest of a transition: momenta, a kick, energies, accept": rest,
        "  the value at its end, beside the gradient": once(lambda: flow.both(x)) - gradient,
        "randomness of a transition, drawn for 64 at once": once(random, number=20) / BLOCK,
        "everything, a transition of a run": once(lambda: scan(keys, state), number=10) / BLOCK,
        "one addition of such chains: what torch asks for any call": once(lambda: x + p),
    }
