"""The ``model`` block: which network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from fedmomentum.scenario.block import Block, ByName, Callable, Count, Misfit
from fedmomentum.scenario.data import DataBlock

Layers = Annotated[tuple[Count, ...], Field(strict=False)]  # a YAML list is no tuple; its items stay strict


class ModelBlock(Block):
    """A network."""

    examples: ClassVar[tuple[str, ...]] = ("image", "vector")
    """What an example may be for it."""
    answers: ClassVar[tuple[str, ...]] = ("classes",)
    """What it may predict."""


class Logistic(ModelBlock):
    """Multinomial logistic regression: a convex problem."""

    name: Literal["logistic"]
    init: Literal["zero", "small"] = Field(default="zero", description="first weights: zero, or N(0, 0.01^2)")


class Linear(ModelBlock):
    """A linear model for answers that are numbers, W x, trained on half the squared error."""

    name: Literal["linear"]
    bias: bool = Field(default=False, description="add a constant")
    init: Literal["zero", "small"] = Field(default="zero", description="first weights: zero, or N(0, 0.01^2)")
    answers = ("numbers",)


class Mlp(ModelBlock):
    """Multilayer perceptron with ReLU; hidden: [200, 200] on 28x28 images is McMahan's 2NN (arXiv:1602.05629)."""

    name: Literal["mlp"]
    hidden: Layers = Field(default=(200,), description="units of each hidden layer")
    answers = ("classes", "numbers")


class CnnSmall(ModelBlock):
    """Two 3x3 convolutions (32, 64) with pools and 128 units."""

    name: Literal["cnn_small"]
    padding: Annotated[int, Field(ge=0, le=1)] = Field(
        default=0, description="1 keeps an image's size through a convolution"
    )
    examples = ("image",)


class CnnMcMahan(ModelBlock):
    """Two 5x5 convolutions (32, 64) with pools and 512 units (arXiv:1602.05629)."""

    name: Literal["cnn_mcmahan"]
    examples = ("image",)


class CnnFedAvgM(ModelBlock):
    """Two 5x5 convolutions of 64 with overlapping pools and a norm, 384 and 192 units (arXiv:1909.06335)."""

    name: Literal["cnn_fedavgm"]
    norm: Literal["batch", "group", "none"] = Field(
        default="batch", description="batch as published; batch statistics are averaged"
    )
    examples = ("image",)


class ResNet(ModelBlock):
    """Residual network for small images (arXiv:1512.03385, section 4.2)."""

    name: Literal["resnet"]
    depth: Annotated[int, Field(ge=8, le=1202)] = Field(
        default=20, description="layers with weights: 6 n + 2, so 8, 14, 20, ..."
    )
    width: Count = Field(default=16, description="channels of the first stage")
    norm: Literal["group", "batch"] = Field(
        default="group", description="batch statistics of unlike clients disagree: group is safer"
    )
    examples = ("image",)

    def misfits(self) -> Iterator[Misfit]:
        """Refuse a depth that makes no whole blocks."""
        yield from super().misfits()
        if (self.depth - 2) % 6:
            below = self.depth - (self.depth - 2) % 6
            yield Misfit(("depth",), f"expected 6 n + 2, such as {below} or {below + 6}, not {self.depth}")


class Recurrent(ModelBlock):
    """A character model: embedding, recurrent layers, one dense layer to the vocabulary."""

    embedding: Count = Field(default=8, description="numbers that stand for a symbol")
    hidden: Count = Field(default=256, description="units of a recurrent layer")
    layers: Count = Field(default=2, description="recurrent layers")
    output: Literal["every", "last"] = Field(default="every", description="predict at every step, or at the last alone")
    examples = ("sequence",)


class Gru(Recurrent):
    """Character model of gated recurrent units."""

    name: Literal["gru"]


class Lstm(Recurrent):
    """Character model of long short-term memory, as for Shakespeare in arXiv:2003.00295."""

    name: Literal["lstm"]


class CustomModel(ModelBlock):
    """Your own: called with ``input_shape=, classes=`` and the options, returns a ``torch.nn.Module``."""

    name: Callable = Field(description="`package.module:callable`; the module is imported, so its code runs")
    options: dict[str, Any] = Field(default={}, description="further keyword arguments of the callable")
    examples = ("image", "vector", "sequence")
    answers = ("classes", "numbers")


Model: TypeAlias = Annotated[
    Logistic | Linear | Mlp | CnnSmall | CnnMcMahan | CnnFedAvgM | ResNet | Gru | Lstm | CustomModel, ByName()
]


def model_misfits(model: Model, data: DataBlock) -> Iterator[Misfit]:
    """Refuse a model that does not work on the examples of a data set, or does not predict what they have."""
    if data.examples not in (*model.examples, "any"):
        wanted = " or ".join(f"{kind}s" for kind in model.examples)
        yield Misfit(("name",), f"'{model.name}' works on {wanted}, and data '{_name(data)}' has {data.examples}s")
    if data.answers not in model.answers:
        wanted = " or ".join(model.answers)
        other = "linear or mlp" if data.answers == "numbers" else "logistic or mlp"
        yield Misfit(
            ("name",), f"'{model.name}' predicts {wanted}, and data '{_name(data)}' has {data.answers}; take {other}"
        )


def _name(data: DataBlock) -> str:
    return str(getattr(data, "name", ""))
