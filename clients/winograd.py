"""A convolution of stride 1 with fewer multiplications, its gradients too: Winograd's ``F(2x2, 3x3)``.

Tiles of 2x2 outputs are ``A^T [(G w G^T) * (B^T x B)] A`` with ``*`` elementwise, so a convolution with 3x3 kernels is
16 matrix products over channels for every 4 outputs, where a plain one has 36. The gradients are the transposes of the
same three maps. Exact, and about as accurate as the plain sum (tests/clients/test_convolved.py). arXiv:1509.09308.

Images lie as ``[height, width, batch, channels]``: whatever a transform adds up are then long runs of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

Matrix: TypeAlias = Sequence[Sequence[float]]


class Transform(NamedTuple):
    """The three matrices of ``F(2, r)``, for ``r`` taps."""

    inputs: Matrix
    """``B^T``, ``[r + 1, r + 1]``."""
    kernel: Matrix
    """``G``, ``[r + 1, r]``."""
    outputs: Matrix
    """``A^T``, ``[2, r + 1]``: its first column is ``(1, 0)``, its last one ``(0, 1)``."""


KERNEL = 3
TRANSFORM = Transform(
    inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1)),
    kernel=((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    outputs=((1, 1, 1, 0), (0, 1, -1, 1)),
)
"""``F(2, 3)``. With 5x5 kernels, 36 products for 100, the transforms cost what the products save, and the outputs are
off by five times as much: those are left to autograd."""


class Winograd:
    """The convolution of one buffer into another, and its gradients; the buffers are used again and again."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        """Bind to a padded input ``[H + 2, W + 2, N, C]`` and an output ``[H, W, N, O]``, H and W even."""
        self.transform = TRANSFORM
        a = self.size = KERNEL + 1
        high, wide, (batch, channels), out = y.shape[0] // 2, y.shape[1] // 2, x.shape[2:], y.shape[3]
        self._rows = x.new_empty(a, high, x.shape[1], batch, channels)
        self._v = x.new_empty(a, a, high, wide, batch, channels)
        self._m = x.new_empty(a, a, high, wide, batch, out)
        self._u = x.new_empty(a * a, out, channels)
        self._taps = x.new_empty(KERNEL * KERNEL, out, channels)  # the kernel, one tap after another
        self._du = x.new_empty(a * a, channels, out)
        self._dx = torch.empty_like(x)
        g = torch.tensor(self.transform.kernel, dtype=x.dtype, device=x.device)
        self._kron = torch.kron(g, g)  # [16, 9]
        self._v_flat, self._m_flat = self._v.view(a * a, -1, channels), self._m.view(a * a, -1, out)
        self._into_v, self._from_v = self._plan_inputs(x, high, wide)
        tiles = y.view(high, 2, wide, 2, batch, out).permute(1, 3, 0, 2, 4, 5)  # [2, 2, high, wide, N, O]
        self._from_m, self._into_m = self._plan_outputs(tiles)

    def _plan_inputs(self, x: Tensor, high: int, wide: int) -> tuple[list[_Sum], list[_Sum]]:
        """Give the sums of ``B^T x B``, rows first, and those of its transpose."""
        matrix = self.transform.inputs
        turned = [list(column) for column in zip(*matrix, strict=True)]
        taps, back = ([t[k : k + 2 * high : 2] for k in range(self.size)] for t in (x, self._dx))
        columns = [self._rows[:, :, k : k + 2 * wide : 2] for k in range(self.size)]
        rows, v = list(self._rows), list(self._v.unbind(1))
        into = [_sum(r, row, taps) for r, row in zip(rows, matrix, strict=True)]
        into += [_sum(part, row, columns) for part, row in zip(v, matrix, strict=True)]
        out: list[_Sum] = []
        for ends, targets, given in (
            (self._rows[:, :, 2 * wide :], columns, v),
            (self._dx[2 * high :], back, rows),
        ):
            out.append(_Sum(ends, (), fresh=True))
            out += [_sum(t, row, given, fresh=k < 2) for k, (t, row) in enumerate(zip(targets, turned, strict=True))]
        return into, out

    def _plan_outputs(self, tiles: Tensor) -> tuple[list[_Sum], list[_Sum]]:
        """Give the sums of ``A^T m A``, and those of its transpose; the former are done in place."""
        m, last, second = self._m, self.size - 1, self.transform.outputs[1]
        middle = range(1, last)
        out = [_Sum(m[0], [(1.0, m[k]) for k in middle], fresh=False)]
        out += [_Sum(m[last], [(second[k], m[k]) for k in middle], fresh=False)]
        ends = m[::last]
        out += [_Sum(tiles[:, 0], [(1.0, ends[:, k]) for k in range(last)], fresh=True)]
        out += [_Sum(tiles[:, 1], [(1.0, ends[:, last]), *((second[k], ends[:, k]) for k in middle)], fresh=True)]
        edges = m[:, ::last]
        back = [_Sum(edges[0], [(1.0, tiles[0])], fresh=True), _Sum(edges[last], [(1.0, tiles[1])], fresh=True)]
        back += [_Sum(edges[k], [(1.0, tiles[0]), (second[k], tiles[1])], fresh=True) for k in middle]
        back += [_Sum(m[:, k], [(1.0, m[:, 0]), (second[k], m[:, last])], fresh=True) for k in middle]
        return out, back

    def forward(self, weight: Tensor) -> None:
        """Write the output; the weight is ``[O, 9, C]``."""
        _run(self._into_v)
        self._taps.copy_(weight.transpose(0, 1))
        torch.mm(self._kron, self._taps.flatten(1), out=self._u.flatten(1))
        torch.bmm(self._v_flat, self._u.mT, out=self._m_flat)
        _run(self._from_m)

    def backward(self, gradient: Tensor, *, inputs: bool) -> Tensor | None:
        """Turn the gradient by the output, which lies in its place, into that by the weight and that by the input.

        Args:
            gradient: ``[O, 9, C]``; written.
            inputs: whether to give the gradient by the padded input.
        """
        _run(self._into_m)
        torch.bmm(self._v_flat.mT, self._m_flat, out=self._du)
        flat = torch.mm(self._kron.T, self._du.flatten(1))
        gradient.copy_(flat.view(-1, *self._du.shape[1:]).permute(2, 0, 1))
        if not inputs:
            return None
        torch.bmm(self._m_flat, self._u, out=self._v_flat)
        _run(self._from_v)
        return self._dx


class _Sum(NamedTuple):
    """``out = sum_j c_j t_j``, or added to what is there."""

    out: Tensor
    terms: Sequence[tuple[float, Tensor]]
    fresh: bool


def _sum(out: Tensor, row: Sequence[float], given: Sequence[Tensor], *, fresh: bool = True) -> _Sum:
    """Give the sum of a row of a matrix; a coefficient of 1 comes first."""
    terms = [(float(c), t) for c, t in zip(row, given, strict=True) if c]
    return _Sum(out, sorted(terms, key=lambda term: term[0] != 1), fresh)


def _run(sums: Sequence[_Sum]) -> None:
    for out, terms, fresh in sums:
        rest = terms
        if fresh:
            if not terms:
                out.zero_()
                continue
            (c, t), *rest = terms
            if c != 1:
                torch.mul(t, c, out=out)
            elif rest:
                (d, u), *rest = rest
                torch.add(t, u, alpha=d, out=out)
            else:
                out.copy_(t)
        for c, t in rest:
            out.add_(t, alpha=c)
