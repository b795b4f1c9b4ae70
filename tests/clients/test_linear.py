"""The large products of the dual form are those of torch, for whatever way the matrices lie."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmomentum.clients.linear import Inputs, linear

LENGTH = st.integers(1, 90)


@settings(max_examples=40, deadline=None)
@given(rows=LENGTH, outputs=LENGTH, inputs=LENGTH, bias=st.booleans(), across=st.booleans(), seed=st.integers(0, 9))
def test_equals_the_product_in_float64(rows, outputs, inputs, bias, across, seed):
    torch.manual_seed(seed)
    x = torch.randn(rows, inputs)
    weight = torch.randn(inputs, outputs).T if across else torch.randn(outputs, inputs)
    b = torch.randn(outputs) if bias else None
    expected = x.double() @ weight.double().T + (b.double() if bias else 0.0)
    torch.testing.assert_close(linear(x, weight, b).double(), expected, rtol=1e-5, atol=1e-5 * inputs**0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_keeps_the_dtype_and_gives_the_same_bits_again(dtype):
    x, weight = torch.randn(30, 20, dtype=dtype), torch.randn(7, 20, dtype=dtype)
    first = linear(x, weight)
    assert first.dtype == dtype and torch.equal(first, linear(x.clone(), weight.clone()))


@settings(max_examples=40, deadline=None)
@given(rows=LENGTH, units=LENGTH, features=LENGTH, bias=st.booleans(), seed=st.integers(0, 9))
def test_inputs_give_both_products(rows, units, features, bias, seed):
    torch.manual_seed(seed)
    x, weight, total = torch.randn(rows, features), torch.randn(units, features), torch.randn(units, rows)
    b = torch.randn(units) if bias else None
    outputs = weight.double() @ x.double().T + (b.double()[:, None] if bias else 0.0)
    inputs = Inputs(x)
    assert inputs.rows == rows
    torch.testing.assert_close(inputs.outputs(weight, b).double(), outputs, rtol=1e-5, atol=1e-5 * features**0.5)
    torch.testing.assert_close(
        inputs.total(total).double(), total.double() @ x.double(), rtol=1e-5, atol=1e-5 * rows**0.5
    )
