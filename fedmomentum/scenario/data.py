"""The ``data`` block: which examples, who holds them, and how clients' views of them differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from fedmomentum.scenario.block import Block, ByName, Callable, Count, Misfit, NonNegative, OneOf, Positive, Whole

Clients = Annotated[int, Field(ge=1, le=10_000_000)]
HeldOut = Annotated[float, Field(gt=0, lt=1)]


class SplitBlock(Block):
    """Examples split over a number of clients that is free to choose."""

    clients: Clients = Field(default=100, description="number of clients in the federation")


class Iid(SplitBlock):
    """Examples dealt out at random, equally many to each client."""

    name: Literal["iid"]


class Dirichlet(SplitBlock):
    """Each client draws its own class distribution from Dir(alpha p) and equally many examples (arXiv:1909.06335)."""

    name: Literal["dirichlet"]
    alpha: Positive = Field(description="concentration: 0.1 gives clients one or two classes, 100 is nearly iid")
    examples_per_client: Count | None = Field(
        default=None, description="examples a client; null: as many as there are for each"
    )


class DirichletPerClass(SplitBlock):
    """Each class is split over the clients by Dir(alpha): sizes differ as well as classes (arXiv:1905.12022)."""

    name: Literal["dirichlet_per_class"]
    alpha: Positive = Field(description="concentration of each client in each class")
    min_examples: Whole = Field(default=1, description="examples that every client has at least")
    balance: bool = Field(
        default=False, description="a client with more than its fair share gets none of the later classes"
    )


class Shards(SplitBlock):
    """Examples sorted by class, cut into shards, so many shards to each client (arXiv:1602.05629)."""

    name: Literal["shards"]
    shards_per_client: Count = Field(default=2, description="shards a client holds: about the number of its classes")


class Quantity(SplitBlock):
    """Clients differ in how many examples they have, not in their classes (arXiv:2102.02079)."""

    name: Literal["quantity"]
    alpha: Positive | None = Field(default=None, description="sizes in the proportions of Dir(alpha); small is unequal")
    sigma: NonNegative | None = Field(default=None, description="log-normal sizes: standard deviation of the logarithm")
    min_examples: Whole = Field(default=1, description="examples that every client has at least")

    alternatives: ClassVar[tuple[OneOf, ...]] = (OneOf(("alpha", "sigma")),)


class Natural(Block):
    """The data set's own clients: writers, files, chunks of a text."""

    name: Literal["natural"]
    clients: Clients | None = Field(
        default=None, description="so many of the natural clients, at random; null: all of them"
    )


class CustomPartition(Block):
    """Any partitioner of flwr-datasets, called with the options; it sees the columns `label` and `group`."""

    name: Callable = Field(
        description="`package.module:callable`, such as flwr_datasets.partitioner:DirichletPartitioner"
    )
    options: dict[str, Any] = Field(
        default={}, description="keyword arguments of the callable; a `seed` that it takes is the scenario's"
    )

    @property
    def clients(self) -> int | None:
        """Number of clients, where the options say it."""
        count = self.options.get("num_partitions")
        return count if isinstance(count, int) and count > 0 else None


Partition: TypeAlias = Annotated[
    Iid | Dirichlet | DirichletPerClass | Shards | Quantity | Natural | CustomPartition, ByName()
]


class Shift(Block):
    """Feature shift: every client sees its examples through a lens of its own."""

    rotation: float = Field(
        default=0.0, ge=0, le=180, description="images are turned by up to this angle either way, in degrees"
    )
    noise: NonNegative = Field(
        default=0.0, description="standard deviation of fixed noise on every value, in the unit of x"
    )
    gain: float = Field(default=0.0, ge=0, lt=1, description="largest relative change of the scale of x")


class DataBlock(Block):
    """A data set and its federation."""

    partition: Partition = Field(description="who holds which training examples")
    validation: float = Field(
        default=0.0, ge=0, lt=1, description="fraction of each client's examples kept for local evaluation"
    )
    shift: Shift = Field(default=Shift(), description="differences between clients in how they see x")

    examples: ClassVar[Literal["image", "vector", "sequence", "any"]] = "any"
    """What one example is, where the data set decides it."""
    answers: ClassVar[Literal["classes", "numbers"]] = "classes"
    """What is to be predicted."""
    labelled: ClassVar[bool] = True
    """Whether an example has one class that a partition can go by."""
    natural: ClassVar[bool] = False
    """Whether examples belong to natural clients."""
    made: ClassVar[str | None] = None
    """The setting that says how many natural clients there are; None where only the data can tell."""

    @property
    def population(self) -> int | None:
        """Number of clients in the federation; None where only the data can tell."""
        return self.partition.clients or self._made_clients()

    def _made_clients(self) -> int | None:
        """Give the number of natural clients that are made, where the partition is theirs."""
        if self.made is None or not isinstance(self.partition, Natural):
            return None
        return int(getattr(self, self.made))

    def misfits(self) -> Iterator[Misfit]:
        """Refuse a partition or a shift that the data set cannot have."""
        yield from super().misfits()
        name = getattr(self, "name", "")
        if self.partition.name == "natural" and not self.natural:
            yield Misfit(
                ("partition", "name"), f"'natural' needs a data set with natural clients, which '{name}' has not"
            )
        byclass = not isinstance(self.partition, Iid | Quantity | Natural | CustomPartition)
        if not self.labelled and byclass:
            yield Misfit(
                ("partition", "name"),
                f"'{self.partition.name}' splits by class, and an example of '{name}' has none; "
                "take iid, quantity or natural",
            )
        if self.shift.rotation and self.examples not in ("image", "any"):
            yield Misfit(("shift", "rotation"), f"only images can be turned, and '{name}' has {self.examples}s")
        if self.examples == "sequence" and (self.shift.noise or self.shift.gain):
            key = "noise" if self.shift.noise else "gain"
            yield Misfit(("shift", key), f"only numbers can be shifted; '{name}' has symbols")
        asked, made = self.partition.clients or 0, self._made_clients()
        if made is not None and asked > made:
            yield Misfit(("partition", "clients"), f"{asked} clients, but data.{self.made} makes only {made}")


class Digits(DataBlock):
    """1797 handwritten digits of 8x8 pixels, embedded in scikit-learn: needs no download."""

    name: Literal["digits"]
    test_fraction: HeldOut = Field(default=0.2, description="part held out as the central test set")
    examples = "image"


class FashionMnist(DataBlock):
    """60,000 + 10,000 images of clothes, 28x28 pixels, ten classes (arXiv:1708.07747)."""

    name: Literal["fashion_mnist"]
    root: str | None = Field(default=None, description="folder with the four IDX files; null: look in the usual places")
    train_size: Annotated[int, Field(ge=1, le=60_000)] | None = Field(
        default=None, description="use only the first so many training examples"
    )
    test_size: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="use only the first so many test examples"
    )
    examples = "image"

    def misfits(self) -> Iterator[Misfit]:
        """Refuse more clients than examples."""
        yield from super().misfits()
        if (self.population or 0) > (size := self.train_size or 60_000):
            yield Misfit(
                ("partition", "clients"), f"{self.population} clients are more than the {size} training examples"
            )


class Synthetic(DataBlock):
    """Synthetic(alpha, beta): vectors that each client labels with a linear model of its own (arXiv:1812.06127)."""

    name: Literal["synthetic"]
    alpha: NonNegative = Field(default=1.0, description="variance between clients of their models")
    beta: NonNegative = Field(default=1.0, description="variance between clients of their inputs")
    clients: Annotated[int, Field(ge=1, le=100_000)] = Field(default=30, description="natural clients")
    dim: Count = Field(default=60, description="length of x")
    classes: Annotated[int, Field(ge=2)] = Field(default=10, description="number of classes")
    iid: bool = Field(
        default=False, description="one model and one distribution of x for all; alpha and beta are not used"
    )
    size_mean: float = Field(default=4.0, le=12, description="mean of the logarithm of clients' sizes above size_min")
    size_sigma: Annotated[float, Field(ge=0, le=4)] = Field(
        default=2.0, description="standard deviation of that logarithm"
    )
    size_min: Annotated[int, Field(ge=2)] = Field(default=50, description="examples that every client has at least")
    test_fraction: HeldOut = Field(
        default=0.2, description="part of each client held out; together the central test set"
    )
    partition: Partition = Field(default=Natural(name="natural"), description="who holds which training examples")
    examples = "vector"
    natural = True
    made = "clients"


class LeastSquares(DataBlock):
    """Clients that each measure a linear model of their own: y = w_k x + noise, with quadratic losses."""

    name: Literal["least_squares"]
    dim: Count = Field(default=8, description="length of x, and number of weights")
    clients: Annotated[int, Field(ge=1, le=100_000)] = Field(default=10, description="natural clients")
    examples_per_client: Count = Field(default=40, description="to train on")
    heterogeneity: NonNegative = Field(default=1.0, description="standard deviation between clients of each weight")
    spread: NonNegative = Field(
        default=0.5, description="standard deviation of the logarithm of the scale of each input on each client"
    )
    noise: NonNegative = Field(default=1.0, description="standard deviation of the answers")
    correlated: bool = Field(
        default=True, description="inputs as they fall; false: curvatures X'X / n are diagonal to rounding"
    )
    test_per_client: Count = Field(default=10, description="examples of each client in the central test set")
    partition: Partition = Field(default=Natural(name="natural"), description="who holds which training examples")
    examples = "vector"
    answers = "numbers"
    labelled = False
    natural = True
    made = "clients"

    def misfits(self) -> Iterator[Misfit]:
        """Refuse inputs that cannot be uncorrelated."""
        yield from super().misfits()
        if not self.correlated and self.examples_per_client < self.dim:
            yield Misfit(
                ("examples_per_client",), f"expected at least dim = {self.dim} where inputs are not correlated"
            )


class Npz(DataBlock):
    """Your own arrays: one .npz file, or a folder of them in which each file is one client."""

    name: Literal["npz"]
    path: str = Field(min_length=1, description="the file (arrays x, y and maybe test_x, test_y, groups) or the folder")
    classes: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="number of classes; null: largest label + 1"
    )
    test_fraction: HeldOut = Field(default=0.2, description="part to hold out where there are no test arrays")
    natural = True


class Private(DataBlock):
    """Data that only the clients have: for `fedmomentum deploy`, where each node names its own (docs/deploy.md)."""

    name: Literal["private"]
    shape: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)] = Field(
        description="of one example, such as [1, 28, 28] for a grey image"
    )
    classes: Annotated[int, Field(ge=2)] = Field(description="number of classes")
    symbols: bool = Field(default=False, description="an example is made of whole numbers that stand for symbols")
    test: str | None = Field(
        default=None, min_length=1, description="the server's test set, a file or folder as for a client; null: none"
    )
    partition: Partition = Field(default=Natural(name="natural"), description="clients have what they have: natural")
    natural = True

    def misfits(self) -> Iterator[Misfit]:
        """Refuse to split what only clients have."""
        yield from super().misfits()
        if self.partition.name != "natural":
            yield Misfit(("partition", "name"), "clients have what they have, which cannot be split; leave it out")
        if any(self.shift.model_dump().values()):
            yield Misfit(("shift",), "private data are as they are; leave it out")


class Text(DataBlock):
    """Your own text file, as sequences of characters of which each predicts the next."""

    name: Literal["text"]
    path: str = Field(min_length=1, description="a UTF-8 text file")
    sequence_length: Count = Field(default=80, description="characters a sequence")
    groups: Count = Field(default=10, description="natural clients: contiguous chunks of the text")
    test_fraction: HeldOut = Field(
        default=0.2, description="part of each chunk held out; together the central test set"
    )
    partition: Partition = Field(default=Natural(name="natural"), description="who holds which training examples")
    examples = "sequence"
    labelled = False
    natural = True
    made = "groups"


Data: TypeAlias = Annotated[Digits | FashionMnist | Synthetic | LeastSquares | Npz | Private | Text, ByName()]
