"""From a name to a model whose first weights are a function of the seed alone."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from fedmomentum.errors import UserError
from fedmomentum.models.convolutional import cnn_fedavgm, cnn_mcmahan, cnn_small
from fedmomentum.models.custom import import_factory
from fedmomentum.models.dense import linear, logistic, mlp
from fedmomentum.models.recurrent import gru, lstm
from fedmomentum.models.resnet import resnet
from fedmomentum.streams import key


class Factory(Protocol):
    """Make a model for examples of one shape; every further keyword is an option of the model."""

    def __call__(self, *, input_shape: Sequence[int], classes: int) -> nn.Module: ...  # noqa: D102


MODELS: Mapping[str, Factory] = {
    "linear": linear,
    "logistic": logistic,
    "mlp": mlp,
    "cnn_small": cnn_small,
    "cnn_mcmahan": cnn_mcmahan,
    "cnn_fedavgm": cnn_fedavgm,
    "resnet": resnet,
    "gru": gru,
    "lstm": lstm,
}
"""The models that come with the package."""


def build(name: str, *, input_shape: Sequence[int], classes: int, seed: int, **options: object) -> nn.Module:
    """Make a model; equal arguments give equal weights, and torch's global random state is left as it was.

    Args:
        name: a key of :data:`MODELS`, or ``"package.module:callable"`` of the user's own: it is called with
            ``input_shape=, classes=, **options`` and returns a module.
        input_shape: shape of one example, without the batch.
        classes: number of classes, or size of the vocabulary.
        seed: what the first weights are a function of.
        **options: the model's own keywords, such as ``hidden=[200, 200]``.

    Raises:
        UserError: the name, an option, or the shape of the data is wrong for the model.
    """
    factory = import_factory(name) if ":" in name else _known(name)
    arguments: dict[str, Any] = {"input_shape": tuple(input_shape), "classes": classes, **options}
    _check_options(name, factory, arguments)
    if any(size < 1 for size in input_shape) or classes < 1:
        raise UserError(
            f"model '{name}': examples of shape {list(input_shape)} in {classes} classes leave it no numbers"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, "model"))  # torch.manual_seed would reseed the GPUs as well
        model = factory(**arguments)
    if not isinstance(model, nn.Module):
        raise UserError(f"model '{name}' must return a torch.nn.Module, not a {type(model).__name__}")
    return model


def _known(name: str) -> Factory:
    if name in MODELS:
        return MODELS[name]
    near = difflib.get_close_matches(name, MODELS, n=1)
    guess = f"did you mean '{near[0]}'? " if near else ""
    raise UserError(f"no model '{name}': {guess}There are {', '.join(MODELS)}, and 'package.module:callable'")


def _check_options(name: str, factory: Factory, arguments: Mapping[str, object]) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some callables written in C do not tell
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        options = ", ".join(option for option in signature.parameters if option not in ("input_shape", "classes"))
        raise UserError(f"model '{name}': {error}; its options are: {options or 'none'}") from None
