"""A client's network compiled by torch: forward and backward pass of a step as generated code.

An option (``engine.compile``), because compiling takes seconds a worker and pays for long runs alone. Clients train
one after another, and the generated code stands in the place of convolutions written out. Equal to autograd to float
tolerance (tests/clients/test_compiled.py). Nothing falls back silently: where torch would give up on compiling and go
on without, it raises.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Literal, cast

from torch import Tensor, nn

from fedmomentum.errors import UserError

Compile = Literal["none", "default", "reduce-overhead"]

_COMPILERS = ("g++", "clang++", "c++")
_OWN_NOISE = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def check(mode: Compile, module: nn.Module, device: str) -> None:
    """Refuse to compile where it cannot be done.

    Raises:
        UserError: the machine has no compiler, or the model has layers that compiled code would change; the message
            says which.
    """
    if mode == "none":
        return
    for name, layer in module.named_modules():
        if isinstance(layer, _OWN_NOISE) and getattr(layer, "p", 0) > 0:
            raise UserError(f"engine.compile: '{name}' is a dropout layer, which draws other noise compiled. Use none.")
        if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
            raise UserError(f"engine.compile: '{name}' is a recurrent layer, which torch does not compile. Use none.")
    if device.startswith("cuda"):
        if importlib.util.find_spec("triton") is None:
            raise UserError("engine.compile: code for a GPU needs the package triton. Install it, or use none.")
        return
    wanted = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ([wanted] if wanted else _COMPILERS)):
        tried = f"CXX={wanted}" if wanted else ", ".join(_COMPILERS)
        raise UserError(
            f"engine.compile: there is no C++ compiler on this machine ({tried}). Install g++, or use none."
        )


def compiled(mode: Compile, module: nn.Module, device: str) -> Callable[[Tensor], Tensor]:
    """Give the module's forward pass compiled, for batches of any size; it shares the module's tensors.

    Compiled once for batches of one example and once for all others, whatever sizes come first: bits must not depend on
    which clients a worker has seen.
    """
    import torch
    import torch._dynamo.config
    import torch._inductor.config

    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._inductor.config.compile_threads = 1  # a pool of processes a worker otherwise
    call = cast(Callable[[Tensor], Tensor], torch.compile(module, mode=mode, dynamic=True, fullgraph=True))
    if mode == "default" or not device.startswith("cuda"):
        return call

    def step(x: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # what the last step's graph gave has been used
        return call(x)

    return step
