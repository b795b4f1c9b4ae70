"""Whether the clients of a block train stacked or one after another: a recorded rule, never a stopwatch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedmomentum.clients.compiled import Compile
from fedmomentum.clients.convolved import convolved
from fedmomentum.clients.dense import Layer, dense_gradients, read_layers
from fedmomentum.clients.dual import EXAMPLES_PER_UNIT, LEAST_UNITS, MOST_PASSES, dual
from fedmomentum.clients.fused import fused_sgd, heavy_ball
from fedmomentum.clients.gram import most_kept
from fedmomentum.clients.methods import make_local
from fedmomentum.clients.native import native
from fedmomentum.clients.network import Network
from fedmomentum.clients.rules import make_client_rule
from fedmomentum.clients.spec import ClientSpec, Vectorize
from fedmomentum.errors import UserError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)

STACK_LIMIT = 1_000_000
"""Parameters above which a dense model no longer gains from stacking on a CPU (benchmarks/vectorize.py)."""


def obstacle(model: nn.Module) -> str | None:
    """Say why a model cannot train stacked with the same meaning as alone, or give None."""
    for name, module in model.named_modules():
        if isinstance(module, _DROPOUTS) and getattr(module, "p", 0) > 0:
            return f"'{name}' is a dropout layer, whose noise would depend on the block"
        if isinstance(module, _RECURRENT):
            return f"'{name}' is a recurrent layer, which torch cannot vectorise over clients"
    if any(True for _ in model.buffers()):
        return "the model has buffers (such as batch-norm statistics), which every client updates on its own"
    return None


def choose(model: nn.Module, setting: Vectorize, device: str, compile: Compile = "none") -> tuple[bool, str]:
    """Give whether to stack, and the reason in words for the run folder.

    The rule for ``auto``: stack where nothing stands in the way (:func:`obstacle`), except convolutions on a CPU (a
    stacked convolution is a grouped one, which is slower there) and dense models above ``STACK_LIMIT`` parameters on a
    CPU. A network that torch compiles trains one client after another.

    Raises:
        UserError: the setting is ``on`` and the model cannot be stacked, or is to be compiled.
    """
    if compile != "none":
        if setting == "on":
            raise UserError(
                "engine.compile trains one client after another: use vectorize: auto or off with it, or none."
            )
        return False, "the network is compiled, which trains one client after another"
    if setting == "off":
        return False, "vectorize is off"
    reason = obstacle(model)
    if setting == "on":
        if reason is not None:
            raise UserError(f"engine.vectorize: on does not fit this model: {reason}. Use auto or off.")
        return True, "vectorize is on"
    if reason is not None:
        return False, reason
    if device == "cpu" and any(isinstance(m, _CONVOLUTIONS) for m in model.modules()):
        return False, "stacked convolutions are slower on a CPU"
    parameters = sum(p.numel() for p in model.parameters())
    if device == "cpu" and parameters > STACK_LIMIT:
        return False, f"{parameters:,} parameters are more than the {STACK_LIMIT:,} that gain from stacking on a CPU"
    return True, "a dense model: stacking saves dispatch"


def training_path(network: Network, spec: ClientSpec, sizes: NDArray[np.integer], *, numbers: bool = False) -> str:
    """Say in words which code trains the clients of a spec, for the run folder.

    Args:
        network: of every client.
        spec: what they do.
        sizes: examples of each.
        numbers: whether what is to be predicted are numbers, not classes.
    """
    words = _training_path(network, spec, sizes, numbers=numbers)
    if spec.precision == "float32":
        return words
    served = spec.precision == "tf32" or "autograd" in words
    return (
        f"{words}; layers in {spec.precision}" if served else f"{words}; in float32: {spec.precision} is for autograd"
    )


def _training_path(network: Network, spec: ClientSpec, sizes: NDArray[np.integer], *, numbers: bool) -> str:
    module, hyper = network.module, {k: v for k, v in spec.optimizer.items() if k != "name"}
    if not choose(module, spec.vectorize, spec.device, spec.compile)[0]:
        names, params = list(network.params), list(network.params.values())
        fused = spec.clip_norm is None and fused_sgd(spec.optimizer["name"], hyper, names, params) is not None
        gradients = "autograd" if convolved(network, spec) is None else "convolutions written out"
        if spec.compile != "none":
            gradients = f"autograd, compiled by torch ({spec.compile})"
        return f"{gradients}, torch's fused SGD" if fused else f"{gradients}, the rule itself"
    if dense_gradients(module) is None:
        return "vmap of autograd"
    layers, ball = read_layers(module), heavy_ball(spec)
    if ball is None:
        return "batched products, the rule itself"
    words = (
        _stacked_path(spec, module, layers, sizes, numbers=numbers)
        if ball.plain
        else "batched products, the rule itself"
    )
    local = make_local(spec.method, make_client_rule(spec.optimizer["name"], **hyper), **spec.method_options)
    in_c = native(spec, module, layers) if local.affine and spec.adapt is None and not numbers else None
    if in_c is None or in_c.least_batch is None:
        return words
    least = in_c.least_batch
    return "compiled code" if least == 1 else f"compiled code for batches of at least {least}; smaller ones: {words}"


def _stacked_path(
    spec: ClientSpec, module: nn.Module, layers: Sequence[Layer] | None, sizes: NDArray[np.integer], *, numbers: bool
) -> str:
    words = "batched products with the momentum built in"
    form = dual(module, layers) if spec.method == "local_sgd" and not spec.keep_state and not numbers else None
    if form is None:
        return words
    if most := most_kept(sizes, form.units, spec.gram_memory):
        return f"{words}; the first layer in dual form for up to {most} examples a client, their products kept"
    if not form.above or form.units < LEAST_UNITS:
        return words
    most = EXAMPLES_PER_UNIT * form.units
    return f"{words}; the first layer in dual form for up to {most} examples a client and pass (at most {MOST_PASSES})"
