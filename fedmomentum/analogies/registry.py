"""The analogies by name, and one way to run any of them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from fedmomentum.analogies import (
    batch_norm,
    games,
    low_pass,
    pd_control,
    phase_space,
    plateau,
    ravine,
    recurrent,
    server_momentum,
    spring,
    temperature,
    weight_decay,
)
from fedmomentum.analogies.result import Measured
from fedmomentum.errors import UserError


@dataclass(frozen=True)
class Analogy:
    """One physical or engineering system that momentum is like.

    Args:
        name: in ``ANALOGIES``; also the module's and the figure's.
        says: what it claims, in a sentence.
        predict: the closed form: numbers to a frozen dataclass of named quantities.
        simulate: the experiment: options to :class:`Measured`.
        probe: the same quantity of a real model or stream of gradients, from plain tensors and callables.
        figure: draws ``name.svg`` and ``name.png`` into a folder; its keywords, if any, are options of the experiment.
    """

    name: str
    says: str
    predict: Callable[..., Any]
    simulate: Callable[..., Measured]
    probe: Callable[..., Any]
    figure: Callable[..., None]

    def draw(self, folder: Path, **settings: Any) -> None:
        """Draw the figure for the settings of a run; the chapter's scene if they are the experiment's defaults.

        Args:
            folder: where ``name.svg`` and ``name.png`` go.
            settings: options of the experiment; those that the figure has none of make no difference.
        """
        takes = [name for name in inspect.signature(self.figure).parameters if name in self.options]
        asked = {name: settings.get(name, self.options[name]) for name in takes}
        self.figure(folder, **({} if all(asked[name] == self.options[name] for name in takes) else asked))

    @property
    def options(self) -> dict[str, Any]:
        """The options of the experiment, with their defaults."""
        return {name: p.default for name, p in inspect.signature(self.simulate).parameters.items()}


def _analogy(module: ModuleType, says: str) -> Analogy:
    name = module.__name__.rpartition(".")[2]
    return Analogy(name, says, module.predict, module.simulate, module.probe, module.figure)


_ALL = (
    _analogy(spring, "The heavy ball samples a mass on a spring in oil."),
    _analogy(pd_control, "Momentum is a PD controller; the friction 1 - beta is its derivative gain."),
    _analogy(plateau, "Momentum accelerates on a slope, overshoots what is behind it, and is thrown by a cliff."),
    _analogy(ravine, "The condition number sets every rule's speed; Adam's gift is alignment, not curvature."),
    _analogy(weight_decay, "Decay is a spring or a leak, and the two rest at different places."),
    _analogy(batch_norm, "Running statistics are a momentum too, and lag behind the weights."),
    _analogy(low_pass, "Momentum is a low-pass filter on the stream of gradients."),
    _analogy(games, "In a game gradients turn, and momentum that helps a descent drives the players apart."),
    _analogy(temperature, "With a constant step an optimizer samples, at temperature lr V/(2 (1 - beta))."),
    _analogy(phase_space, "Noise that does not commute with the curvature keeps probability flowing in circles."),
    _analogy(recurrent, "Recurrence makes cliffs; clipping bounds the fall, and momentum loosens the bound."),
    _analogy(server_momentum, "On a server momentum smooths the buffer, not the model, and moves no fixed point."),
)

ANALOGIES: Mapping[str, Analogy] = MappingProxyType({analogy.name: analogy for analogy in _ALL})
"""Name -> analogy, in the order of the chapter ``docs/momentum.md``."""


def run(name: str, **options: Any) -> Measured:
    """Run the experiment of an analogy.

    Example:
        >>> print(run("spring", momentum=0.95))

    Args:
        name: in ``ANALOGIES``.
        options: of its ``simulate``.

    Raises:
        UserError: there is no such analogy or option (the message gives the near name), or a value is out of its range.
    """
    if name not in ANALOGIES:
        raise UserError(f"unknown analogy '{name}'; {_near(name, ANALOGIES)}")
    analogy = ANALOGIES[name]
    for option in options:
        if option not in analogy.options:
            raise UserError(f"analogy '{name}' has no option '{option}'; {_near(option, analogy.options)}")
    try:
        return analogy.simulate(**options)
    except ValueError as error:
        raise UserError(f"analogy '{name}': {error}") from error


def _near(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(known)}"
