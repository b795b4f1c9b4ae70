"""A client's own steps, followed while it takes them: gradients, places, running statistics, and how far it went."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedmomentum.analogies import batch_norm, low_pass, phase_space, temperature
from fedmomentum.analogies.linear import Form
from fedmomentum.clients.measuring import Measure
from fedmomentum.clients.network import Network
from fedmomentum.clients.norm import batch_norms
from fedmomentum.streams import torch_stream
from fedmomentum.trees import Tree

WIDTH = 4096
"""Numbers that a step's gradient and place are kept as: of larger models a random projection."""


FADED = 0.05
"""Share of a path's noise that has to be left in its later two thirds for a noise gain to mean anything."""


class Sketch:
    """A fixed random projection ``[P] -> [d]``: each number is added, with a random sign, to a random place.

    It is linear, so the velocity of sketched gradients is the sketch of the velocity, and it keeps inner products on
    average (relative error about ``d^-1/2``). A model of at most ``d`` numbers is kept as it is.

    Reference: Charikar, Chen, Farach-Colton 2002, doi:10.1007/3-540-45465-9_59.
    """

    def __init__(self, size: int, seed: int, device: str = "cpu", width: int = WIDTH) -> None:
        """Draw the projection from the stream "probe sketch"."""
        self.size, self.width = size, min(size, width)
        draw = torch_stream(seed, "probe sketch")
        if size > width:
            self._place = torch.randint(width, (size,), generator=draw).to(device)
            self._sign = (torch.randint(0, 2, (size,), generator=draw) * 2.0 - 1.0).to(device)

    def __call__(self, tensors: list[Tensor]) -> Tensor:
        """Give the sketch of a model's tensors, on the CPU."""
        flat = torch.cat([x.detach().reshape(-1) for x in tensors]).float()
        if self.size > self.width:
            flat = torch.zeros(self.width, device=flat.device).index_add_(0, self._place, flat * self._sign)
        return flat.cpu().clone()


@dataclass
class Path:
    """What is kept of one client's steps; rows are the last ones of the round."""

    gradients: list[Tensor] = field(default_factory=list)
    points: list[Tensor] = field(default_factory=list)
    running: list[Tensor] = field(default_factory=list)
    truth: list[Tensor] = field(default_factory=list)
    gap: float = math.nan
    squared: float = math.nan
    cost: float = 0.0


class Watch:
    """Watches a network while clients train in it, without changing anything; see ``LoopedTrainer.watch``."""

    def __init__(self, network: Network, measure: Measure, seed: int, device: str = "cpu") -> None:
        """Take the network that trains, and what to measure."""
        self.network, self.measure = network, measure
        self._size = sum(p.numel() for p in network.params.values())
        self._seed, self._device = seed, device
        self._sketch: Sketch | None = None
        self._layers = list(batch_norms(network.module).values())
        self.paths: dict[int, Path] = {}
        self.anchor: Tree = {}
        self.samples: dict[int, Tensor] = {}

    def begin(self, anchor: Mapping[str, Tensor], samples: Mapping[int, Tensor]) -> None:
        """Begin a block: the model that it starts from, and a sample of each client's examples for batch norm."""
        self.paths = {}
        self.anchor = {name: anchor[name] for name in self.network.params}
        self.samples = dict(samples)

    def step(self, client: int, step: int, steps: int) -> None:
        """See a gradient before the step is taken; the network is where it was computed."""
        path = self.paths.setdefault(client, Path())
        if step < steps - self.measure.path_steps:
            return
        tensors = list(self.network.params.values())
        if self.measure.wants(("noise", "irreversibility")):
            if self._sketch is None:
                self._sketch = Sketch(self._size, self._seed, self._device)
            path.points.append(self._sketch([p.detach() for p in tensors]))
            path.gradients.append(
                self._sketch([p.grad if p.grad is not None else torch.zeros_like(p) for p in tensors])
            )
        if "batch_norm" in self.measure.probes and client in self.samples:
            x = self.samples[client]
            path.running.append(self._statistics())
            found = batch_norm.recalibrate(self.network.module, [self.network.inputs(x)])
            path.truth.append(torch.cat([t.reshape(-1) for n, t in found.items() if n.endswith("running_mean")]).cpu())
            path.cost += len(x) / 3  # a forward pass
            if step == steps - 1:
                path.gap = self._gap(found)

    def end(self, client: int) -> None:
        """See where the client has ended."""
        path = self.paths.setdefault(client, Path())
        path.squared = sum(
            float(((p.detach() - self.anchor[n]).double() ** 2).sum()) for n, p in self.network.params.items()
        )

    def _statistics(self) -> Tensor:
        return torch.cat(
            [m.running_mean.detach().reshape(-1) for m in self._layers if m.running_mean is not None]
        ).cpu()

    def _gap(self, found: Mapping[str, Tensor]) -> float:
        named = self.network.buffers
        off = sum(float(((named[n] - t).double() ** 2).sum()) for n, t in found.items())
        size = sum(float((t.double() ** 2).sum()) for t in found.values())
        return math.sqrt(off / size) if size > 0 else math.nan


def readings(
    path: Path, measure: Measure, *, lr: float, momentum: float, form: Form | None, parameters: int, batch: int
) -> dict[str, float]:
    """Give what a followed path says, by name; nan where it is too short or shows nothing.

    Args:
        path: of one client and round.
        measure: which probes are asked for.
        lr: of the client.
        momentum: of the client.
        form: of its momentum; None for a rule that is no spring, whose gain and temperature are not defined.
        parameters: of the model.
        batch: examples a step, for the noise scale.
    """
    out: dict[str, float] = {}
    if "drift" in measure.probes:
        out["drift"] = math.sqrt(path.squared) if path.squared >= 0 else math.nan
    if "batch_norm" in measure.probes:
        out["batch_norm_lag"] = _or_nan(lambda: batch_norm.probe(torch.stack(path.running), torch.stack(path.truth)))
        out["batch_norm_gap"] = path.gap
    if measure.wants(("noise", "irreversibility")):
        gradients, points = torch.stack(path.gradients), torch.stack(path.points)
        if "noise" in measure.probes:
            out |= _noise(gradients, points, lr, momentum, form, parameters, batch)
        if "irreversibility" in measure.probes:
            arrow = _arrow(points)
            out["irreversibility"], out["irreversibility_floor"] = arrow
    return out


def _noise(
    gradients: Tensor, points: Tensor, lr: float, momentum: float, form: Form | None, parameters: int, batch: int
) -> dict[str, float]:
    steps = len(gradients)
    g = gradients.double()
    noise = float((g.diff(dim=0) ** 2).sum(1).mean()) / 2 if steps > 1 else math.nan
    signal = float((g.mean(0) ** 2).sum()) - noise / steps
    heavy = form == "heavy_ball"
    late = g[steps // 3 :]  # what the gain is measured on: where the noise has died away, there is none to pass on
    steady = steps > 3 and float(late.var(0).sum()) > FADED * float(g.var(0).sum())
    return {
        "noise": noise,
        "signal": signal,
        "noise_scale": batch * noise / signal if signal > 0 else math.nan,
        "noise_gain": _or_nan(lambda: low_pass.probe(gradients, momentum=momentum, form=form).noise_gain)
        if form is not None and steady
        else math.nan,
        "temperature": _or_nan(
            lambda: temperature.probe(gradients, points, lr=lr, momentum=momentum).temperature * g.shape[1] / parameters
        )
        if heavy
        else math.nan,
    }


def _arrow(points: Tensor) -> tuple[float, float]:
    try:
        arrow = phase_space.probe(points)
    except ValueError:  # a path too short, or along one line
        return math.nan, math.nan
    return arrow.index, arrow.floor


def _or_nan(measured: object) -> float:
    try:
        return float(measured())  # type: ignore[operator]
    except ValueError:  # too few steps, or nothing that varies: there is no such number
        return math.nan
