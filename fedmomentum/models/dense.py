"""Models without convolutions: they flatten whatever an example's shape is."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import nn

from fedmomentum.errors import UserError


def logistic(*, input_shape: Sequence[int], classes: int, init: Literal["zero", "small"] = "zero") -> nn.Module:
    """Give multinomial logistic regression, ``W x + b``: a convex problem.

    Args:
        input_shape: an example's shape; it is flattened.
        classes: number of classes.
        init: ``zero``, or ``small``: weights from N(0, 0.01^2). The bias starts at zero.

    Raises:
        UserError: ``init`` is neither.
    """
    layer = nn.Linear(math.prod(input_shape), classes)
    nn.init.zeros_(layer.bias)
    _begin(layer, init, "logistic")
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), fc=layer))


def linear(
    *, input_shape: Sequence[int], classes: int, bias: bool = False, init: Literal["zero", "small"] = "zero"
) -> nn.Module:
    """Give a linear model, ``W x``, for answers that are numbers.

    Args:
        input_shape: an example's shape; it is flattened.
        classes: numbers that an answer has.
        bias: add a constant to each; it starts at zero.
        init: as for :func:`logistic`.

    Raises:
        UserError: ``init`` is neither.
    """
    layer = nn.Linear(math.prod(input_shape), classes, bias=bias)
    if bias:
        nn.init.zeros_(layer.bias)
    _begin(layer, init, "linear")
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), fc=layer))


def _begin(layer: nn.Linear, init: str, name: str) -> None:
    match init:
        case "zero":
            nn.init.zeros_(layer.weight)
        case "small":
            nn.init.normal_(layer.weight, std=0.01)
        case _:
            raise UserError(f"model '{name}': init must be 'zero' or 'small', not {init!r}")


def mlp(*, input_shape: Sequence[int], classes: int, hidden: Sequence[int] = (200,)) -> nn.Module:
    """Give a multilayer perceptron with ReLU between its layers.

    ``hidden=[200, 200]`` on 28x28 images is the 2NN of McMahan et al. (arXiv:1602.05629), 199,210 parameters.

    Args:
        input_shape: an example's shape; it is flattened.
        classes: number of classes.
        hidden: units of each hidden layer, in order.

    Raises:
        UserError: a hidden layer has fewer than one unit.
    """
    if isinstance(hidden, (int, str)) or not all(isinstance(units, int) and units > 0 for units in hidden):
        raise UserError(
            f"model 'mlp': hidden must be a list of positive numbers of units such as [200], not {hidden!r}"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    sizes = [math.prod(input_shape), *hidden]
    for number, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes), start=1):
        layers[f"fc{number}"] = nn.Linear(fan_in, fan_out)
        layers[f"relu{number}"] = nn.ReLU()
    layers[f"fc{len(sizes)}"] = nn.Linear(sizes[-1], classes)
    return nn.Sequential(layers)
