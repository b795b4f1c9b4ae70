"""The loss is torch's, example by example; accuracy is counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from fedmomentum.models import correct, losses

Measure: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def logits(*shape: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def classes(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(1))


def test_uniform_logits_cost_log_v() -> None:
    torch.testing.assert_close(losses(torch.zeros(3, 7), classes(7, 3)), torch.full((3,), math.log(7)))


def test_loss_is_torchs_cross_entropy() -> None:
    outputs, targets = logits(6, 5), classes(5, 6)
    torch.testing.assert_close(losses(outputs, targets), F.cross_entropy(outputs, targets, reduction="none"))


def test_a_sequences_loss_is_the_mean_over_its_steps() -> None:
    outputs, targets = logits(6, 4, 5), classes(5, 6, 4)
    want = [F.cross_entropy(sequence, target) for sequence, target in zip(outputs, targets, strict=True)]
    torch.testing.assert_close(losses(outputs, targets), torch.stack(want))


def test_correct_counts_examples_and_steps() -> None:
    outputs = F.one_hot(torch.tensor([[0, 1, 2, 2], [1, 1, 0, 2]]), 3).float()
    targets = torch.tensor([[0, 1, 2, 0], [0, 0, 1, 2]])
    torch.testing.assert_close(correct(outputs, targets), torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(correct(outputs[:, 0], targets[:, 0]), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("measure", [losses, correct])
@pytest.mark.parametrize("steps", [(), (4,)])
def test_stacked_clients_equal_each_alone(measure: Measure, steps: tuple[int, ...]) -> None:
    outputs, targets = logits(3, 6, *steps, 5), classes(5, 3, 6, *steps)
    each = torch.stack([measure(o, t) for o, t in zip(outputs, targets, strict=True)])
    torch.testing.assert_close(vmap(measure)(outputs, targets), each)


@pytest.mark.parametrize("measure", [losses, correct])
@pytest.mark.parametrize(
    ("output_shape", "target_shape"),
    [((6, 5), (6, 1)), ((6, 5), (1,)), ((6, 5), (5, 6)), ((6, 4, 5), (6,)), ((5,), ())],
)
def test_shapes_that_would_broadcast_are_refused(
    measure: Measure, output_shape: tuple[int, ...], target_shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="do not match"):
        measure(torch.zeros(output_shape), torch.zeros(target_shape, dtype=torch.int64))


@pytest.mark.parametrize("measure", [losses, correct])
def test_targets_that_are_no_indices_are_refused(measure: Measure) -> None:
    with pytest.raises(ValueError, match="not float32"):
        measure(torch.zeros(6, 5), torch.zeros(6))


def test_numbers_cost_half_their_squared_error() -> None:
    outputs, targets = logits(6, 5), logits(6, 5) + 1
    torch.testing.assert_close(losses(outputs, targets), 2.5 * F.mse_loss(outputs, targets, reduction="none").mean(1))
    with pytest.raises(ValueError, match="numbers need one output each"):
        losses(outputs, targets[:, 0])  # [6] against [6, 5] must not broadcast
