"""Shapes, published sizes, seeds, gradients and stacking, one table for every model."""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedmomentum.errors import UserError
from fedmomentum.models import MODELS, buffer_names, build, correct, count_parameters, losses


class Case(NamedTuple):
    """A model and the data it is tried on."""

    name: str
    shape: tuple[int, ...]
    options: Mapping[str, Any] = MappingProxyType({})

    @property
    def sequence(self) -> bool:
        return self.name in ("gru", "lstm")

    def model(self, *, seed: int = 0, classes: int = 10) -> nn.Module:
        return build(self.name, input_shape=self.shape, classes=classes, seed=seed, **self.options)

    def batch(self, *, seed: int = 1, size: int = 6, classes: int = 10) -> tuple[Tensor, Tensor]:
        rng = torch.Generator().manual_seed(seed)
        if not self.sequence:
            return torch.randn(size, *self.shape, generator=rng), torch.randint(classes, (size,), generator=rng)
        every = self.options.get("output", "every") == "every"
        targets = (size, *self.shape) if every else (size,)
        inputs = torch.randint(classes, (size, *self.shape), generator=rng)
        return inputs, torch.randint(classes, targets, generator=rng)


CASES = [
    Case("logistic", (60,), {"init": "small"}),
    Case("logistic", (1, 8, 8), {"init": "small"}),
    Case("linear", (60,), {"init": "small", "bias": True}),
    Case("mlp", (1, 8, 8), {"hidden": [16]}),
    Case("mlp", (60,), {"hidden": [16, 12, 8]}),
    Case("mlp", (60,), {"hidden": []}),
    Case("cnn_small", (1, 28, 28)),
    Case("cnn_small", (1, 10, 13)),
    Case("cnn_small", (1, 8, 8), {"padding": 1}),
    Case("cnn_mcmahan", (1, 8, 8)),
    Case("cnn_mcmahan", (3, 13, 9)),
    Case("cnn_fedavgm", (1, 8, 8), {"norm": "batch"}),
    Case("cnn_fedavgm", (1, 14, 11), {"norm": "group"}),
    Case("cnn_fedavgm", (3, 7, 7), {"norm": "none"}),
    Case("resnet", (3, 16, 16), {"depth": 8, "width": 4, "norm": "group"}),
    Case("resnet", (1, 8, 8), {"depth": 14, "width": 8, "norm": "batch"}),
    Case("resnet", (1, 7, 9), {"depth": 8, "width": 6}),
    Case("gru", (5,), {"hidden": 12}),
    Case("lstm", (5,), {"hidden": 12, "layers": 1, "embedding": 3}),
    Case("lstm", (5,), {"hidden": 12, "output": "last"}),
]


def label(case: Case) -> str:
    return f"{case.name}-{'x'.join(map(str, case.shape))}-{'-'.join(map(str, case.options.values()))}"


every_case = pytest.mark.parametrize("case", CASES, ids=label)


def test_the_table_has_every_model() -> None:
    assert {case.name for case in CASES} == set(MODELS)


@every_case
def test_outputs_are_logits_per_target(case: Case) -> None:
    inputs, targets = case.batch(classes=7)
    outputs = case.model(classes=7)(inputs)
    assert outputs.shape == (*targets.shape, 7)
    assert outputs.dtype == torch.float32
    assert losses(outputs, targets).shape == correct(outputs, targets).shape == (6,)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "options", "published"),
    [
        ("logistic", (784,), 10, {}, 7_850),
        ("linear", (784,), 1, {}, 784),
        ("mlp", (1, 28, 28), 10, {"hidden": [200, 200]}, 199_210),  # arXiv:1602.05629, "2NN"
        ("cnn_mcmahan", (1, 28, 28), 10, {}, 1_663_370),  # arXiv:1602.05629
        ("lstm", (80,), 90, {}, 820_522 + 2 * 4 * 256),  # arXiv:2003.00295, and torch's second bias vectors
        # Layer by layer: conv 1-64 and 64-64, two norms, dense 2304-384-192-10.
        ("cnn_fedavgm", (1, 28, 28), 10, {}, 1_664 + 102_464 + 2 * 128 + 885_120 + 73_920 + 1_930),
        ("cnn_small", (1, 28, 28), 10, {}, 320 + 18_496 + 204_928 + 1_290),
    ],
)
def test_parameter_counts(
    name: str, shape: tuple[int, ...], classes: int, options: dict[str, Any], published: int
) -> None:
    assert count_parameters(build(name, input_shape=shape, classes=classes, seed=0, **options)) == published


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_resnet_has_the_size_of_the_papers_table_6(depth: int, millions: float) -> None:
    model = build("resnet", input_shape=(3, 32, 32), classes=10, seed=0, depth=depth, norm="batch")
    assert round(count_parameters(model) / 1e6, 2) == millions


def test_frozen_parameters_are_not_counted() -> None:
    model = build("mlp", input_shape=(4,), classes=2, seed=0, hidden=[3])
    model.get_parameter("fc1.weight").requires_grad_(False)
    assert count_parameters(model) == 3 + 3 * 2 + 2


@every_case
def test_weights_are_a_function_of_the_seed_alone(case: Case) -> None:
    first = case.model(seed=3).state_dict()
    torch.manual_seed(99)
    torch.rand(5)
    again, other = case.model(seed=3).state_dict(), case.model(seed=4).state_dict()
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    weights = [name for name in first if name.endswith("weight") and "norm" not in name]
    assert weights
    assert not any(torch.equal(first[name], other[name]) for name in weights if first[name].ndim > 1)


@every_case
def test_building_leaves_the_global_random_states_alone(case: Case) -> None:
    def states() -> tuple[bytes, object, bytes]:
        return torch.get_rng_state().numpy().tobytes(), random.getstate(), np.random.get_state()[1].tobytes()

    before = states()
    case.model()
    assert states() == before


def test_a_failing_build_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    with pytest.raises(UserError):
        build("resnet", input_shape=(1, 8, 8), classes=2, seed=0, depth=9)
    assert torch.equal(torch.get_rng_state(), before)


@every_case
def test_an_examples_outputs_do_not_depend_on_its_batch(case: Case) -> None:
    model = case.model().eval()
    inputs, _ = case.batch(size=6)
    torch.testing.assert_close(model(inputs)[2:4], model(inputs[2:4]))


@every_case
def test_gradient_reaches_every_parameter(case: Case) -> None:
    model = case.model()
    inputs, targets = case.batch(size=32)
    losses(model(inputs), targets).mean().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert not dead


@every_case
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch loops over stacked LSTMs on a CPU
def test_stacked_clients_get_the_gradients_of_each(case: Case) -> None:
    """K models side by side under vmap, batch-norm statistics included, equal K models one by one."""
    models = [case.model(seed=seed) for seed in range(3)]
    batches = [case.batch(seed=seed) for seed in range(3)]
    parameters = {
        name: torch.stack([m.get_parameter(name).detach() for m in models]) for name, _ in models[0].named_parameters()
    }
    buffers = {name: torch.stack([m.get_buffer(name) for m in models]) for name in buffer_names(models[0])}

    def loss(p: dict[str, Tensor], b: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        outputs = functional_call(models[0], (p, b), (inputs,))
        return losses(outputs, targets).mean(), correct(outputs, targets)

    inputs_K, targets_K = (torch.stack(column) for column in zip(*batches, strict=True))
    grads, hits_K = vmap(grad(loss, has_aux=True))(parameters, buffers, inputs_K, targets_K)

    for k, (model, (inputs, targets)) in enumerate(zip(models, batches, strict=True)):
        outputs = model(inputs)
        losses(outputs, targets).mean().backward()
        torch.testing.assert_close(hits_K[k], correct(outputs, targets), rtol=0, atol=0)
        for name, p in model.named_parameters():
            assert p.grad is not None
            torch.testing.assert_close(grads[name][k], p.grad, rtol=1e-4, atol=1e-5)
        for name in buffer_names(model):
            torch.testing.assert_close(buffers[name][k], model.get_buffer(name), rtol=1e-5, atol=1e-6)


def test_batch_norm_statistics_are_named_as_buffers() -> None:
    batch = build("cnn_fedavgm", input_shape=(1, 8, 8), classes=3, seed=0, norm="batch")
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert buffer_names(batch) == tuple(f"{norm}.{name}" for norm in ("norm1", "norm2") for name in statistics)
    assert {name for name, _ in batch.named_parameters()} == batch.state_dict().keys() - set(buffer_names(batch))
    assert buffer_names(build("cnn_fedavgm", input_shape=(1, 8, 8), classes=3, seed=0, norm="group")) == ()


def test_buffers_that_are_not_saved_are_not_named() -> None:
    model = nn.BatchNorm1d(2)
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    assert "scratch" not in buffer_names(model)


def test_logistic_regression_starts_at_zero() -> None:
    model = build("logistic", input_shape=(5,), classes=4, seed=0)
    assert all(not p.any() for p in model.parameters())
    inputs, targets = Case("logistic", (5,)).batch(classes=4)
    torch.testing.assert_close(losses(model(inputs), targets), torch.full((6,), float(np.log(4))))
    small = build("logistic", input_shape=(5_000,), classes=4, seed=0, init="small").get_parameter("fc.weight")
    assert small.std().item() == pytest.approx(0.01, rel=0.03)


@pytest.mark.parametrize("size", [10, 11, 12, 13, 28, 31])
def test_cropping_changes_no_output_and_no_gradient(size: int) -> None:
    model = build("cnn_small", input_shape=(1, size, size), classes=10, seed=0).double()
    assert isinstance(model, nn.Sequential)
    images = torch.randn(4, 1, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameters = list(model.parameters())

    def run(network: nn.Module) -> list[Tensor]:
        outputs = network(images)
        return [outputs, *torch.autograd.grad(outputs.square().sum(), parameters)]

    for cropped, whole in zip(run(model), run(model[1:]), strict=True):
        torch.testing.assert_close(cropped, whole, rtol=1e-12, atol=1e-12)
    live = size - (size - 6) % 4
    assert model[0](images).shape == (4, 1, live, live), "the crop drops exactly what the two pools would leave over"


@pytest.mark.parametrize(("name", "smallest"), [("cnn_small", 10), ("cnn_mcmahan", 4), ("cnn_fedavgm", 7)])
def test_the_smallest_image_is_what_the_message_says(name: str, smallest: int) -> None:
    model = build(name, input_shape=(1, smallest, smallest), classes=3, seed=0)
    assert model(torch.zeros(2, 1, smallest, smallest)).shape == (2, 3)
    for shape in [(1, smallest - 1, 50), (1, 50, smallest - 1)]:
        with pytest.raises(UserError, match=rf"'{name}'.*at least {smallest}x{smallest}, not {shape[1]}x{shape[2]}"):
            build(name, input_shape=shape, classes=3, seed=0)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_sequences_may_have_any_length_and_step_t_sees_no_later_symbol(name: str) -> None:
    model = Case(name, (5,), {"hidden": 12}).model()
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    changed = tokens.clone()
    changed[0, 4] = 9
    difference = (model(tokens) - model(changed)).abs().sum(-1)[0]
    assert (difference[:4] == 0).all()
    assert (difference[4:] > 0).all()


def test_last_is_the_last_of_every_step() -> None:
    every, last = (Case("gru", (5,), {"hidden": 12, "output": output}).model() for output in ("every", "last"))
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    torch.testing.assert_close(last(tokens), every(tokens)[:, -1], rtol=0, atol=0)
