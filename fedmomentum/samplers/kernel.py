"""The seam of the samplers: a pair of functions, and what is carried apart from what is reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from torch import Tensor

from fedmomentum.trees import State, Tree

Potential: TypeAlias = Callable[[Tree], Tensor]
"""``U(x) = -log density(x)`` up to a constant, of one point ``[*shape]``: a scalar. Kernels map it over chains."""

Gradient: TypeAlias = Callable[[Tree], Tree]
"""``dU`` of stacked points ``[C, *shape]``."""

Estimate: TypeAlias = Callable[[Tree, Tensor], Tree]
"""An unbiased estimate of ``dU`` at ``[C, *shape]`` from keys ``[C]`` (one a chain), such as that of a minibatch."""


class KernelInit(Protocol):
    """Give the state of C chains that start at ``position``, a tree of ``[C, *shape]``."""

    def __call__(self, position: Tree) -> State: ...  # noqa: D102


class KernelStep(Protocol):
    """Make one transition of every chain; all that is random in it is a function of a key, 64 bits, and the chain."""

    def __call__(self, key: int, state: State) -> tuple[State, Any]: ...  # noqa: D102


class KernelScan(Protocol):
    """Make T transitions, a key each: ``step`` again and again, bit for bit, at less of Python a step.

    It gives the state after the last of them, and of each the position ``[T, C, *shape]`` and the info ``[T, C]``.
    """

    def __call__(self, keys: Sequence[int], state: State) -> tuple[State, Tree, Any]: ...  # noqa: D102


class Kernel(NamedTuple):
    """A sampler: ``state, info = kernel.step(key, state)``.

    The state is a dictionary of trees, all of it saved; ``state["position"]`` holds the samples ``[C, *shape]``. The
    info is a named tuple of ``[C]`` tensors. Nothing is changed in place. Chain ``c`` draws the same numbers however
    many chains run beside it. ``scan`` is for kernels that can make many transitions at less than the price of each.
    """

    init: KernelInit
    step: KernelStep
    scan: KernelScan | None = None


class LangevinInfo(NamedTuple):
    """What a Langevin kernel reports about a transition.

    Args:
        step_size: of this transition ``[C]``; the weight of the sample when the step decreases.
        kinetic_temperature: ``p' M^-1 p / P`` of the momenta ``[C]``, which is the temperature in equilibrium
            (NaN for a kernel without momenta).
    """

    step_size: Tensor
    kinetic_temperature: Tensor
