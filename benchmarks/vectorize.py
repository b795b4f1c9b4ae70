"""What the recorded rules of ``vectorize: auto`` rest on: where which way of training a dense client is the faster one.

``python -m benchmarks.vectorize [orders] [products] [native] [stacking] [dual] [convolved] [bare] [worker] [scattered]
[compiled] [--repeats 5]``.
Times are processor time of one thread, the shortest of interleaved repeats (``worker``: the median), so that a busy
machine changes them little; a ratio above 1 says that the second way is the faster one. The figures settle ``NARROW``
(orders), whether ``clients/linear.py`` pays (products), ``MOST_PARAMETERS`` (native), ``STACK_LIMIT`` (stacking),
``EXAMPLES_PER_UNIT``, ``KEPT_EXAMPLES`` and ``KEPT_PER_OUTPUT`` (dual) and ``LEAST_CHANNELS`` (convolved); ``bare``
compares a worker with a plain loop, ``worker`` takes one apart, and ``scattered`` shows what the order of examples is
worth. ``compiled`` shows what compiling the gradients of stacked clients would gain where ``vmap`` makes them.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.workload import BATCH, EXAMPLES, LR, MODELS, MOMENTUM, client_data, network, train
from fedmomentum.clients import convolved as convolutions_by_hand
from fedmomentum.clients import dual as dual_form
from fedmomentum.clients import gram, groups
from fedmomentum.clients import native as in_c
from fedmomentum.clients.block import BlockTask
from fedmomentum.clients.collect import to_arrays
from fedmomentum.clients.library import available
from fedmomentum.clients.linear import linear
from fedmomentum.clients.spec import ClientSpec, ModelSpec
from fedmomentum.clients.worker import Worker
from fedmomentum.data import Dataset, FederatedData, Partition, arrange, partition
from fedmomentum.simulation.ray_pool import WORKER_ENVIRONMENT

CLIENTS = 16


def fastest(ways: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Give the shortest processor time of each of several ways, taken in turn."""
    times: list[list[float]] = [[] for _ in ways]
    for repeat in range(repeats + 1):
        for way, kept in zip(ways, times, strict=True):
            began = time.thread_time()
            way()
            if repeat:  # the first one allocates
                kept.append(time.thread_time() - began)
    return [min(kept) for kept in times]


def orders(repeats: int) -> None:
    """``h W^T`` against ``(W h^T)^T`` for 16 clients."""
    print("| outputs | features | batch | h W^T us | (W h^T)^T us | ratio |\n|---|---|---|---|---|---|")
    for outputs in (2, 10, 16, 24, 64):
        for features, batch in ((60, 20), (784, 20), (784, 64)):
            h, w = torch.randn(CLIENTS, batch, features), torch.randn(CLIENTS, outputs, features)
            a, b = fastest([lambda: torch.bmm(h, w.mT), lambda: torch.bmm(w, h.mT).mT], 20 * repeats)  # noqa: B023
            print(f"| {outputs} | {features} | {batch} | {a * 1e6:.0f} | {b * 1e6:.0f} | {a / b:.2f} |")


def products(repeats: int) -> None:
    """Outputs of a layer for the inputs of 50 clients, and the mean of its weights, by torch and by oneDNN."""
    print("| outputs | torch, outputs ms | oneDNN ms | torch, mean ms | oneDNN ms |")
    print("|---" * 5 + "|")
    rows = torch.randn(50 * EXAMPLES, 784)
    for outputs in (2, 10, 16, 32, 64, 200):
        weight, coefficients = torch.randn(outputs, 784), torch.randn(outputs, len(rows))
        ways = [
            partial(torch.nn.functional.linear, rows, weight),
            partial(linear, rows, weight),
            partial(torch.mm, coefficients, rows),
            partial(linear, coefficients, rows.T),
        ]
        times = " | ".join(f"{1e3 * t:.2f}" for t in fastest(ways, 2 * repeats))
        print(f"| {outputs} | {times} |")


def _task(
    hidden: list[int],
    examples: int,
    epochs: int,
    vectorize: str,
    *,
    gram_memory: float = 512.0,
    side: int = 28,
    batch: int = 20,
    native: bool = False,
) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    count = CLIENTS * examples
    x, y = rng.standard_normal((count, 1, side, side), dtype=np.float32), rng.integers(0, 10, count)
    dataset = Dataset(name="noise", x=x, y=y, test_x=x[:1], test_y=y[:1], classes=10)
    data = FederatedData.build(dataset, Partition(np.arange(count), np.arange(CLIENTS + 1) * examples))
    spec = ClientSpec(
        model=ModelSpec("mlp", (1, side, side), 10, 0, {"hidden": hidden}),
        optimizer={"name": "heavy_ball", "lr": 0.01, "momentum": 0.9},
        epochs=epochs,
        batch_size=batch,
        native=native,
        vectorize=vectorize,  # type: ignore[arg-type]
        gram_memory=gram_memory,
    )
    worker = Worker(spec, data)
    sent = {"arrays": to_arrays(worker.network.tree())}
    task = BlockTask(index=0, kind="train", round=1, clients=tuple(range(CLIENTS)))
    return lambda: worker.run(task, sent)


def stacking(repeats: int) -> None:
    """One client after another against stacked ones with weights of their own."""
    print("| hidden | parameters | one by one ms | stacked ms | ratio |\n|---|---|---|---|---|")
    for hidden in ([], [50], [200], [1000], [2000]):
        ways = [partial(_with, False, _task(hidden, 40, 1, v, gram_memory=0.0)) for v in ("off", "on")]
        a, b = (1e3 * t / CLIENTS for t in fastest(ways, repeats))
        sizes = [784, *hidden, 10]
        parameters = sum((i + 1) * o for i, o in pairwise(sizes))
        print(f"| {hidden} | {parameters:,} | {a:.3f} | {b:.3f} | {a / b:.2f} |")


def native(repeats: int) -> None:
    """Clients in C against the fastest other form, one epoch of 100 examples."""
    if not available():
        raise SystemExit("this installation has no compiled part")
    print("| inputs | hidden | parameters | batch | otherwise ms | in C ms | ratio |\n" + "|---" * 7 + "|")
    for side, hidden, batch in NETWORKS:
        widths = [side * side, *hidden, 10]
        parameters = sum((i + 1) * o for i, o in pairwise(widths))
        ways = [_task(hidden, 100, 1, "on", side=side, batch=batch, native=way) for way in (False, True)]
        with mock.patch.object(in_c.Native, "pays", lambda *_: True):
            ways[1]()  # the block is cut once
        a, b = (1e3 * t / CLIENTS for t in fastest(ways, 4 * repeats))
        row = f"{side * side} | {hidden or 'none'} | {parameters:,} | {batch} | {a:.3f} | {b:.3f} | {a / b:.2f}"
        print(f"| {row} |", flush=True)


NETWORKS = (
    *((8, hidden, 20) for hidden in ([], [32], [64, 64], [200])),
    *((28, [], batch) for batch in (1, 5, 20, 100)),
    *((28, [hidden], 20) for hidden in (50, 100, 200, 300, 400, 600, 1000)),
    *((28, [200], batch) for batch in (1, 5, 100)),
    (28, [200, 200], 20),
)


def dual(repeats: int) -> None:
    """Stacked clients with weights of their own against the first layer in dual form, inner products made or kept."""
    print(
        "| units | examples | epochs | own weights ms | made ms | kept ms | ratio, made | ratio, kept |\n"
        + "|---" * 8
        + "|"
    )
    for units in (10, 32, 64, 200):
        for epochs in (1, 3):
            for examples in (25, 50, 100, 200, 400, 800, 1600):
                hidden = [] if units == 10 else [units]
                own = _task(hidden, examples, epochs, "on", gram_memory=0.0)
                with mock.patch.object(gram, "KEPT_EXAMPLES", sys.maxsize):
                    kept = _task(hidden, examples, epochs, "on", gram_memory=math.inf)
                runs = [partial(_with, False, own), partial(_with, True, own), kept]
                a, b, c = (1e3 * t / CLIENTS for t in fastest(runs, repeats))
                print(
                    f"| {units} | {examples} | {epochs} | {a:.3f} | {b:.3f} | {c:.3f} | {a / b:.2f} | {a / c:.2f} |",
                    flush=True,
                )


def _with(pays: bool, way: Callable[[], object]) -> None:
    with mock.patch.object(dual_form.Dual, "pays", lambda *_: pays):
        way()


def convolutions(
    *, input_shape: Sequence[int], classes: int, channels: int, layers: int = 2, kernel: int = 3
) -> torch.nn.Module:
    """Give a network of convolutions, each pooled 2x2, and 128 units, as a user would write it."""
    parts: list[torch.nn.Module] = []
    before, size = input_shape[0], input_shape[1]
    for depth in range(layers):
        after = channels << depth
        parts += [torch.nn.Conv2d(before, after, kernel, padding=kernel // 2), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
        before, size = after, size // 2
    head = torch.nn.Linear(before * size * size, 128), torch.nn.ReLU(), torch.nn.Linear(128, classes)
    return torch.nn.Sequential(*parts, torch.nn.Flatten(), *head)


def convolved(repeats: int) -> None:
    """Convolutions by autograd against written-out ones."""
    print("| image | channels | layers | batch | autograd ms | written out ms | ratio |\n|---|---|---|---|---|---|---|")
    for shape, channels, layers, batch in CONVOLUTIONS:
        model = {"name": "benchmarks.vectorize:convolutions", "channels": channels, "layers": layers}
        with mock.patch.multiple(convolutions_by_hand, LEAST_CHANNELS=1, _uses_patches=lambda *_: True):
            ways = [_convolution_task(shape, model, batch, vectorize) for vectorize in ("off", "auto")]
            for way in ways:
                way()
        a, b = (1e3 * t for t in fastest(ways, repeats))
        row = f"{'x'.join(map(str, shape))} | {channels} | {layers} | {batch} | {a:.3f} | {b:.3f} | {a / b:.2f}"
        print(f"| {row} |", flush=True)


CONVOLUTIONS = (
    *(((1, 28, 28), channels, 2, batch) for channels in (4, 8, 16, 32) for batch in (1, 5, 20, 64)),
    *(((1, 28, 28), channels, 1, 20) for channels in (4, 8, 16, 32)),
    *(((3, 32, 32), channels, layers, 20) for channels in (8, 16, 32) for layers in (1, 3)),
)


def _convolution_task(shape: Sequence[int], model: dict[str, object], batch: int, way: str) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4 * batch, *shape), dtype=np.float32), rng.integers(0, 10, 4 * batch)
    dataset = Dataset(name="noise", x=x, y=y, test_x=x[:1], test_y=y[:1], classes=10)
    data = FederatedData.build(dataset, Partition(np.arange(len(y)), np.array([0, len(y)])))
    options = {key: value for key, value in model.items() if key != "name"}
    spec = ClientSpec(
        model=ModelSpec(str(model["name"]), tuple(shape), 10, 0, options),
        optimizer={"name": "heavy_ball", "lr": 0.001, "momentum": 0.9},
        batch_size=batch,
        vectorize=way,  # type: ignore[arg-type]
    )
    worker = Worker(spec, data)
    sent = {"arrays": to_arrays(worker.network.tree())}
    task = BlockTask(index=0, kind="train", round=1, clients=(0,))
    return lambda: worker.run(task, sent)


def bare(repeats: int) -> None:
    """A plain torch loop against a worker of ours, workload W, a client."""
    print("| model | precision | plain loop ms | ours ms | ratio |\n|---|---|---|---|---|")
    clients, data = 50, _workload(50)
    tensors = [tuple(torch.from_numpy(a) for a in client_data(c)) for c in range(clients)]
    for model, precision in (("lin", "float32"), ("mlp", "float32"), ("cnn", "float32"), ("cnn", "bf16")):
        module, block = network(model), _block(model, data, precision)

        def loop(module: torch.nn.Module = module) -> None:
            for client, (a, b) in enumerate(tensors):
                train(module, a, b, np.random.default_rng(client))

        ways = (loop, block)
        a, b = (1e3 * t / clients for t in fastest(ways, repeats))
        print(f"| {model} | {precision} | {a:.3f} | {b:.3f} | {a / b:.2f} |", flush=True)


def _workload(clients: int) -> FederatedData:
    """Give the data of workload W as workers of a scenario hold them."""
    parts = [client_data(c) for c in range(clients)]
    x, y = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
    dataset = Dataset(name="W", x=x, y=y, test_x=x[:1], test_y=y[:1], classes=10)
    return arrange(FederatedData.build(dataset, Partition(np.arange(len(y)), np.arange(clients + 1) * EXAMPLES)))


def _block(model: str, data: FederatedData, precision: str = "float32", *, native: bool = True) -> Callable[[], object]:
    """Give what trains all clients of workload W in one block."""
    return _rounds(model, data, [range(data.clients)], precision, native=native)


def _rounds(
    model: str,
    data: FederatedData,
    cohorts: Sequence[Sequence[int]],
    precision: str = "float32",
    *,
    native: bool = True,
) -> Callable[[], object]:
    """Give what trains cohorts of workload W one after another, each in one block."""
    spec = ClientSpec(
        model=ModelSpec(MODELS[model], (1, 28, 28), 10),
        optimizer={"name": "heavy_ball", "lr": LR, "momentum": MOMENTUM},
        batch_size=BATCH,
        precision=precision,  # type: ignore[arg-type]
        native=native and available(),
    )
    worker = Worker(spec, data)
    sent = {"arrays": to_arrays(worker.network.tree())}
    tasks = [BlockTask(index=0, kind="train", round=1, clients=tuple(clients)) for clients in cohorts]
    return lambda: [worker.run(task, sent) for task in tasks]


def scattered(repeats: int) -> None:
    """Blocks of clients whose examples lie all over 60,000 images, against the same put in the order of clients.

    Five cohorts in turn: neighbours, as in blocks of a round in which everybody takes part, or drawn at random.
    """
    print("| partition | held out | model | clients of a block | as they lie, ms a client | in order | ratio |")
    print("|---" * 7 + "|")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60_000, 1, 28, 28), np.float32), rng.integers(0, 10, 60_000)
    dataset = Dataset(name="scattered", x=x, y=y, test_x=x[:1], test_y=y[:1], classes=10)
    for name, options, validation in (("dirichlet", {"alpha": 0.3}, 0.0), ("iid", {}, 0.0), ("iid", {}, 0.1)):
        split = partition(name, labels=y, clients=600, seed=1, **options)
        data = FederatedData.build(dataset, split, validation=validation)
        ordered = arrange(data)
        neighbours = [range(50 * i, 50 * i + 50) for i in range(5)]
        drawn = [sorted(rng.choice(600, 10, replace=False).tolist()) for _ in range(5)]
        for model, cohorts in (("lin", neighbours), ("lin", drawn), ("mlp", neighbours), ("mlp", drawn)):
            ways = [_rounds(model, held, cohorts) for held in (data, ordered)]
            size = len(cohorts[0])
            a, b = (1e3 * t / len(cohorts) / size for t in fastest(ways, repeats))
            which = f"{size} {'neighbours' if cohorts is neighbours else 'of 600'}"
            print(f"| {name} | {validation} | {model} | {which} | {a:.3f} | {b:.3f} | {a / b:.2f} |", flush=True)


def worker_parts(repeats: int) -> None:
    """What a worker needs for a block of 50 clients, workload W, and how much of it are the large computations.

    In compiled code that is the one call; without it, the two products with all inputs.
    """
    print("| model | compiled code | block ms | large computations ms | the rest ms |\n|---|---|---|---|---|")
    data, spent = _workload(50), [0.0]

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*operands: Any, **options: Any) -> Any:
            began = time.process_time()
            result = work(*operands, **options)
            spent[0] += time.process_time() - began
            return result

        return call

    for model in ("lin", "mlp"):
        for native in (True, False)[not available() :]:
            block, found = _block(model, data, native=native), []
            with (
                mock.patch("fedmomentum.clients.linear.linear", counted(linear)),
                mock.patch.object(in_c.Native, "_run", counted(in_c.Native._run)),
            ):
                for _ in range(10 * repeats):
                    spent[0], began = 0.0, time.process_time()
                    block()
                    found.append((1e3 * (time.process_time() - began), 1e3 * spent[0]))
            whole, both = np.median(found, axis=0)
            print(
                f"| {model} | {'yes' if native else 'no'} | {whole:.2f} | {both:.2f} | {whole - both:.2f} |", flush=True
            )


def compiled(repeats: int) -> None:
    """Gradients of 50 stacked clients by ``vmap`` of autograd, as they are and compiled, one thread."""
    from torch import nn
    from torch.func import functional_call, grad_and_value, vmap

    def hidden(*widths: int, normed: bool = False) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), *([nn.LayerNorm(outputs), nn.GELU()] if normed else [nn.Tanh()])]
        return nn.Sequential(*layers, nn.Linear(widths[-1], 10))

    networks = {
        "tanh, 784-200-10": (784, hidden(784, 200)),
        "tanh, 64-64-32-10": (64, hidden(64, 64, 32)),
        "layer norm and GELU, 64-64-64-64-10": (64, hidden(64, 64, 64, 64, normed=True)),
    }
    print("| network | vmap, ms a step | compiled | ratio | s to compile | largest difference |\n" + "|---" * 6 + "|")
    for name, (inputs, module) in networks.items():
        params = {n: p.detach().expand(50, *p.shape).clone() for n, p in module.named_parameters()}
        x, y = torch.randn(50, BATCH, inputs), torch.randint(0, 10, (50, BATCH))

        def loss(params: Any, x: Any, y: Any, module: nn.Module = module) -> torch.Tensor:
            return nn.functional.cross_entropy(functional_call(module, params, (x,)), y)

        plain = vmap(grad_and_value(loss))
        began = time.perf_counter()
        fast = torch.compile(plain, dynamic=False)
        found = fast(params, x, y)[0]
        seconds = time.perf_counter() - began
        off = max(float((found[n] - g).abs().max()) for n, g in plain(params, x, y)[0].items())
        a, b = (1e3 * t for t in fastest([partial(way, params, x, y) for way in (plain, fast)], 4 * repeats))
        print(f"| {name} | {a:.2f} | {b:.2f} | {a / b:.2f} | {seconds:.1f} | {off:.0e} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parts = {"orders": orders, "products": products, "native": native, "stacking": stacking, "dual": dual}
    parts |= {"convolved": convolved, "bare": bare, "worker": worker_parts, "scattered": scattered}
    parts |= {"compiled": compiled}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *parts], default=[])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    if WORKER_ENVIRONMENT.items() - os.environ.items():  # as in an actor: glibc reads it when a process begins
        words = [sys.executable, "-m", "benchmarks.vectorize", *(arguments or sys.argv[1:])]
        os.execve(sys.executable, words, {**os.environ, **WORKER_ENVIRONMENT})
    torch.set_num_threads(1)
    print(f"stacked at a time: {groups.STACK_BYTES:,} bytes of parameters, {dual_form.STACK_NUMBERS:,} in dual form")
    for name in options.parts or parts:
        print(f"\n{name}: {parts[name].__doc__.strip()}\n")
        parts[name](options.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
