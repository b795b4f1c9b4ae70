"""A fast path of the client loop on a CPU: the gradients of sequential convolutional networks written out by hand.

Equal to autograd to float tolerance (tests/clients/test_convolved.py), and free of its graph, of the tensors that it
would allocate in every step and of a third of the arithmetic. Serves an ``nn.Sequential`` of ``Conv2d``, ``MaxPool2d``
and ``ReLU``, then ``Flatten``, ``Linear`` and ``ReLU``; :func:`read_blocks` says which. How it gets there:

- images lie as ``[height, width, batch, channels]``, so that pools and transforms pass over long runs of memory;
- the first convolution, whose input is data, is one product with patches, and no gradient goes below it;
- the others have 3x3 kernels: Winograd's form (:mod:`fedmomentum.clients.winograd`);
- a pool comes before the ReLU with which it commutes, and what it drops at the border is never computed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedmomentum.clients.dense import Layer
from fedmomentum.clients.network import Network
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.clients.winograd import KERNEL, Winograd
from fedmomentum.models.convolutional import Crop
from fedmomentum.protocol import LARGE

LEAST_CHANNELS = 16
"""Channels, in and out, from which Winograd's form is the faster one. The first convolution is a product with patches
where a patch has no more numbers than the layer has outputs (both: benchmarks/vectorize.py)."""
SHAPES = 2
"""Batch sizes for which buffers are kept: the full one and a last one that is short."""


class Pool(NamedTuple):
    """A max pool."""

    size: int
    stride: int


@dataclass(frozen=True)
class Block:
    """A convolution, a pool over what it gives, and whether a ReLU follows."""

    weight: str
    bias: str | None
    kernel: tuple[int, int]
    stride: int
    padding: int
    pool: Pool | None
    relu: bool


class Blocks(NamedTuple):
    """A network as the written-out gradients see it."""

    crop: tuple[int, int] | None
    convolutions: Sequence[Block]
    dense: Sequence[Layer]


class Convolved:
    """Computes the gradient of the mean cross entropy of a minibatch into ``.grad`` of the parameters."""

    def __init__(self, blocks: Blocks, params: Mapping[str, nn.Parameter]) -> None:
        """Take a network that was read, and its parameters."""
        self.blocks, self.params = blocks, params
        self._grads = {name: torch.empty_like(p) for name, p in params.items()}
        self._steps: OrderedDict[torch.Size, _Step] = OrderedDict()

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Give the mean loss of examples ``[N, C, H, W]`` with their targets; ``.grad`` lives until the next call."""
        for name, p in self.params.items():
            p.grad = self._grads[name]
        with torch.no_grad():
            return self._step(x.shape)(x, y)

    def _step(self, shape: torch.Size) -> _Step:
        if shape not in self._steps:
            if len(self._steps) == SHAPES:
                self._steps.popitem(last=False)
            self._steps[shape] = _Step(self.blocks, self.params, self._grads, shape)
        self._steps.move_to_end(shape)
        return self._steps[shape]


class _Step:
    """The forward and the backward pass for one shape of minibatch, with all their buffers."""

    def __init__(
        self, blocks: Blocks, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], shape: torch.Size
    ) -> None:
        batch, channels, *size = shape
        if blocks.crop is not None:
            size = [min(a, b) for a, b in zip(size, blocks.crop, strict=True)]
        needed = _sizes(blocks.convolutions, (size[0], size[1]))
        self.params, self.grads, self.dense = params, grads, blocks.dense
        like = next(iter(params.values()))
        last = like.new_empty(*needed[-1], batch, len(params[blocks.convolutions[-1].weight]))
        self.last, self.flat = last, like.new_empty(batch, last.shape[3], *last.shape[:2])
        self.convolutions: list[_Convolution] = []
        out = last
        for depth in range(len(blocks.convolutions) - 1, -1, -1):
            block = blocks.convolutions[depth]
            inside = channels if depth == 0 else len(params[blocks.convolutions[depth - 1].weight])
            self.convolutions.insert(
                0, _Convolution(block, params, grads, needed[depth], (batch, inside), out, first=depth == 0)
            )
            out = self.convolutions[0].inside

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        first = self.convolutions[0].inside
        first.copy_(x[:, :, : first.shape[0], : first.shape[1]].permute(2, 3, 0, 1))
        for convolution in self.convolutions:
            convolution.forward()
        self.flat.copy_(self.last.permute(2, 3, 0, 1))
        loss, back = self._head(self.flat.flatten(1), y)
        g = back.view(self.flat.shape).permute(2, 3, 0, 1)
        for convolution in reversed(self.convolutions):
            below = convolution.backward(g)
            if below is not None:
                g = below
        return loss

    def _head(self, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Give the loss and the gradient by what the dense layers are given; theirs are written."""
        hidden = [h]
        for layer in self.dense:
            z = F.linear(hidden[-1], self.params[layer.weight], self.params[layer.bias] if layer.bias else None)
            hidden.append(z.relu_() if layer.relu else z)
        if y.is_floating_point():  # half the squared error
            dz = hidden[-1].sub_(y).div_(len(y))
            loss = dz.square().sum().mul_(len(y) / 2)
        else:
            logs = torch.log_softmax(hidden[-1], 1)
            loss = F.nll_loss(logs, y)
            dz = logs.exp_().scatter_add_(1, y[:, None], logs.new_full((1, 1), -1.0).expand(len(y), 1)).div_(len(y))
        for depth in range(len(self.dense) - 1, -1, -1):
            layer, before = self.dense[depth], hidden[depth]
            torch.mm(dz.T, before, out=self.grads[layer.weight])
            if layer.bias:
                torch.sum(dz, 0, out=self.grads[layer.bias])
            dz = torch.mm(dz, self.params[layer.weight])
            if depth and self.dense[depth - 1].relu:
                dz = torch.ops.aten.threshold_backward(dz, before, 0)
        return loss, dz


class _Convolution:
    """A convolution with its pool and ReLU, from a buffer of its own into that of the next."""

    def __init__(
        self,
        block: Block,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        needed: tuple[int, int],
        given: tuple[int, int],
        out: Tensor,
        *,
        first: bool,
    ) -> None:
        """Bind to sizes.

        Args:
            block: what it computes.
            params: of the network.
            grads: what is written.
            needed: height and width of the input, without padding.
            given: batch and channels of the input.
            out: where to write the output.
            first: whether the input is data, by which no gradient is asked for.
        """
        self.block, self.out, self.first = block, out, first
        weight, (batch, channels) = params[block.weight], given
        outputs, taps = len(weight), (len(weight), -1, channels)
        self.weight, self.grad = (t.permute(0, 2, 3, 1).view(taps) for t in (weight, grads[block.weight]))
        self.bias = None if block.bias is None else params[block.bias]
        self.bias_grad = None if block.bias is None else grads[block.bias]
        high, wide = (_before(block.pool, size) for size in out.shape[:2])
        kernel, stride, edge = block.kernel, block.stride, block.padding
        patches = first and _uses_patches(kernel, channels, outputs)
        rows, columns = (high, wide) if patches else (high + high % 2, wide + wide % 2)
        padded = [(n - 1) * stride + k for n, k in zip((rows, columns), kernel, strict=True)]
        if patches:  # channels first in memory
            self.x = weight.new_zeros(channels, *padded, batch).permute(1, 2, 3, 0)
        else:
            self.x = weight.new_zeros(*padded, batch, channels)
        self.inside = self.x[edge : edge + needed[0], edge : edge + needed[1]]
        self.y = weight.new_empty(rows, columns, batch, outputs)
        self.extras = [self.y[high:], self.y[:high, wide:]] if (rows, columns) != (high, wide) else []
        self.used = self.y[:high, :wide]
        self.pool = None if block.pool is None else _Pool(block.pool, self.used, out.shape)
        self.top = self.used if self.pool is None else self.pool.out
        self.product: _Patches | Winograd
        self.product = _Patches(self.x, self.y, kernel, stride) if patches else Winograd(self.x, self.y)
        self.g = self.used if self.pool is None else weight.new_empty(out.shape)

    def forward(self) -> None:
        """Write the output."""
        self.product.forward(self.weight)
        if self.pool is not None:
            self.pool.forward()
        if self.bias is None:
            self.out.copy_(self.top)
        else:
            torch.add(self.top, self.bias, out=self.out)
        if self.block.relu:
            self.out.relu_()

    def backward(self, g: Tensor) -> Tensor | None:
        """Write the gradients, given that by the output; give that by the input, unless it is data."""
        if not self.block.relu or g.stride(3) != 1:  # a pass over memory in another order is slow: just a copy
            g = self.g.copy_(g)
        if self.block.relu:
            torch.ops.aten.threshold_backward.grad_input(g, self.out, 0, grad_input=self.g)
        if self.bias_grad is not None:
            torch.sum(self.g, (0, 1, 2), out=self.bias_grad)
        if self.pool is not None:
            self.pool.backward(self.g)
        for extra in self.extras:
            extra.zero_()
        dx = self.product.backward(self.grad, inputs=not self.first)
        edge, inside = self.block.padding, self.inside.shape
        return None if dx is None else dx[edge : edge + inside[0], edge : edge + inside[1]]


class _Pool:
    """Torch's max pool over ``[H, W, N, C]``, which is an image with ``N C`` channels, channels last."""

    def __init__(self, pool: Pool, y: Tensor, shape: torch.Size) -> None:
        """Bind to an input and the shape of the output."""
        self.out = y.new_empty(shape)
        self._sizes = [pool.size] * 2, [pool.stride] * 2, [0, 0], [1, 1], False
        self._y, self._top = _as_image(y), _as_image(self.out)
        self._where = _as_image(y.new_empty(shape, dtype=torch.int64))

    def forward(self) -> None:
        """Write the output."""
        torch.ops.aten.max_pool2d_with_indices.out(self._y, *self._sizes, out=self._top, indices=self._where)

    def backward(self, g: Tensor) -> None:
        """Put the gradient by the input in its place."""
        y = self._y
        torch.ops.aten.max_pool2d_with_indices_backward.grad_input(
            _as_image(g), y, *self._sizes, self._where, grad_input=y
        )


def _as_image(x: Tensor) -> Tensor:
    return x.flatten(2)[None].permute(0, 3, 1, 2)


class _Patches:
    """A convolution as one product with patches, which is the fastest one where a patch is small."""

    def __init__(self, x: Tensor, y: Tensor, kernel: tuple[int, int], stride: int) -> None:
        """Bind to a padded input ``[H', W', N, C]`` and an output ``[H, W, N, O]``."""
        high, wide, batch, channels = x.stride()
        shape = (*kernel, x.shape[3], *y.shape[:2], x.shape[2])
        self._y = y.view(-1, y.shape[3])
        self._views = x.as_strided(shape, (high, wide, channels, stride * high, stride * wide, batch))
        self._patches = x.new_empty(shape)
        self._flat = self._patches.view(-1, len(self._y))

    def forward(self, weight: Tensor) -> None:
        """Write the output; the weight is ``[O, kh kw, C]``."""
        self._patches.copy_(self._views)
        torch.mm(self._flat.T, weight.flatten(1).T, out=self._y)

    def backward(self, gradient: Tensor, *, inputs: bool) -> None:
        """Write the gradient by the weight, ``[O, kh kw, C]``, given that by the output in its place."""
        assert not inputs
        flat = gradient.flatten(1)
        flat.copy_(torch.mm(self._flat, self._y).T)


def _uses_patches(kernel: tuple[int, int], channels: int, outputs: int) -> bool:
    """Say whether a first convolution is one product with patches."""
    return kernel[0] * kernel[1] * channels <= outputs


def convolved(network: Network, spec: ClientSpec) -> Convolved | None:
    """Give the written-out gradients of a network, or None where autograd serves it: a part of ``vectorize: auto``."""
    if spec.device != "cpu" or spec.vectorize != "auto" or spec.precision != "float32":
        return None
    if sum(p.nbytes for p in network.params.values()) >= LARGE:  # its gradient is kept, and with autograd it is not
        return None
    blocks = read_blocks(network.module, network.params)
    return None if blocks is None else Convolved(blocks, network.params)


def read_blocks(module: nn.Module, params: Mapping[str, Tensor]) -> Blocks | None:
    """Read a module as blocks; None where it holds anything that the written-out gradients do not cover."""
    crop: tuple[int, int] | None = None
    convolutions: list[Block] = []
    dense: list[Layer] = []
    flat = False
    for name, child in _layers(module, ""):
        kind, first = type(child), not convolutions
        if child._forward_hooks or child._forward_pre_hooks or child._backward_hooks or child._backward_pre_hooks:
            return None
        if kind is nn.Identity:
            continue
        if isinstance(child, Crop) and first and crop is None:
            crop = child.height, child.width
        elif isinstance(child, nn.Conv2d) and kind is nn.Conv2d and not flat:
            block = _block(name, child, first)
            if block is None:
                return None
            convolutions.append(block)
        elif isinstance(child, nn.MaxPool2d) and kind is nn.MaxPool2d and not first and not flat:
            pool = _pool(child)
            if pool is None or convolutions[-1].pool is not None:
                return None
            convolutions[-1] = replace(convolutions[-1], pool=pool)
        elif isinstance(child, nn.Flatten) and kind is nn.Flatten and not first and not flat:
            flat = (child.start_dim, child.end_dim) == (1, -1)
            if not flat:
                return None
        elif isinstance(child, nn.Linear) and kind is nn.Linear and flat:
            dense.append(Layer(f"{name}.weight", f"{name}.bias" if child.bias is not None else None, relu=False))
        elif kind is nn.ReLU and dense:
            dense[-1] = replace(dense[-1], relu=True)
        elif kind is nn.ReLU and not first and not flat:
            convolutions[-1] = replace(convolutions[-1], relu=True)
        else:
            return None
    if not dense or dense[-1].relu:
        return None
    named = [name for c in convolutions for name in (c.weight, c.bias) if name]
    named += [name for d in dense for name in (d.weight, d.bias) if name]
    return Blocks(crop, convolutions, dense) if sorted(named) == sorted(params) else None


def _layers(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Give the layers of a module in the order in which it runs them."""
    if type(module) is not nn.Sequential or module._forward_hooks or module._forward_pre_hooks:
        yield prefix, module
        return
    for name, child in module._modules.items():
        if child is not None:
            yield from _layers(child, f"{prefix}.{name}" if prefix else name)


def _block(name: str, layer: nn.Conv2d, first: bool) -> Block | None:
    (high, wide), (stride, other), padding = layer.kernel_size, layer.stride, layer.padding
    if layer.groups != 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros" or stride != other:
        return None
    if isinstance(padding, str) or padding[0] != padding[1] or padding[0] >= min(high, wide):
        return None
    bias = f"{name}.bias" if layer.bias is not None else None
    block = Block(f"{name}.weight", bias, (high, wide), stride, padding[0], pool=None, relu=False)
    if first and _uses_patches(block.kernel, layer.in_channels, layer.out_channels):
        return block
    wide_enough = min(layer.in_channels, layer.out_channels) >= LEAST_CHANNELS
    return block if high == wide == KERNEL and stride == 1 and wide_enough else None


def _pool(layer: nn.MaxPool2d) -> Pool | None:
    size, stride = (pair if isinstance(pair, tuple) else (pair, pair) for pair in (layer.kernel_size, layer.stride))
    plain = layer.padding in (0, (0, 0)) and layer.dilation in (1, (1, 1))
    plain = plain and not layer.ceil_mode and not layer.return_indices
    return Pool(int(size[0]), int(stride[0])) if plain and size[0] == size[1] and stride[0] == stride[1] else None


def _before(pool: Pool | None, size: int) -> int:
    """Give how many rows a pool needs for so many."""
    return size if pool is None else (size - 1) * pool.stride + pool.size


def _sizes(blocks: Sequence[Block], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Give the height and width that each block needs of its input, and those of the last output."""

    def along(axis: int) -> list[int]:
        reached = [size[axis]]
        for block in blocks:
            after = (reached[-1] + 2 * block.padding - block.kernel[axis]) // block.stride + 1
            reached.append(after if block.pool is None else (after - block.pool.size) // block.pool.stride + 1)
        needed = [reached[-1]]
        for block, given in zip(reversed(blocks), reversed(reached[:-1]), strict=True):
            inputs = (_before(block.pool, needed[0]) - 1) * block.stride + block.kernel[axis] - block.padding
            needed.insert(0, min(given, inputs))
        return needed

    return list(zip(along(0), along(1), strict=True))
