"""What scenarios of every kind have in common: a question, and runs that are compared to answer it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from fedmomentum.scenario.block import Block, Misfit
from fedmomentum.scenario.expect import Claim

Points = dict[str, Annotated[list[Any], Field(min_length=1)]]


class Sweep(Block):
    """Arms made from lists of values: the product of ``grid``, the rows of ``zip`` and the seeds."""

    grid: Points = Field(default={}, description="path of a setting -> values; every combination is an arm")
    zip: Points = Field(default={}, description="path of a setting -> values; lists of one length that move together")
    seeds: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="repeat every arm with this many seeds (seed, seed + 1, ...), the same ones for each"
    )

    def misfits(self) -> Iterator[Misfit]:
        """Refuse lists of different lengths, a setting that is swept twice, and a sweep of nothing."""
        yield from super().misfits()
        lengths = {path: len(values) for path, values in self.zip.items()}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{path} has {length}" for path, length in lengths.items())
            yield Misfit(("zip",), f"its lists move together and must be equally long, but {counts}")
        for path in self.grid.keys() & self.zip.keys():
            yield Misfit(("zip", path), "is in grid as well; sweep it in one of the two")
        if self.seeds is not None and "seed" in {*self.grid, *self.zip}:
            yield Misfit(("seeds",), "'seed' is swept as well; leave one of the two out")


class Scenario(Block):
    """The settings that scenarios of every kind have."""

    name: str = Field(
        default="",
        description="names the run folder; the file's name where it is not given",
        pattern=r"^[\w.+-]*$",
        max_length=80,
    )
    question: str = Field(default="", description="what the scenario asks, in a sentence; the title of its picture")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(default=0, description="everything random is a function of it")
    arms: dict[str, dict[str, Any] | None] = Field(
        default={},
        description="runs to compare, by name; each is a set of changes to this scenario (nested, or `a.b: value`)",
    )
    sweep: Sweep | None = Field(
        default=None, description="arms made from lists of values; beside `arms`, every arm takes every point"
    )
    expect: tuple[Claim, ...] = Field(
        default=(), strict=False, description="claims about the results, checked at the end"
    )

    trackers: Annotated[tuple[Literal["tensorboard", "mlflow", "wandb"], ...], Field(strict=False)] = Field(
        default=(), description="experiment trackers that are told of every round; each is an extra to install"
    )

    def extent(self) -> dict[str, int]:
        """Say how big the run is, as far as the file alone tells: noun -> number, such as ``{"rounds": 60}``."""
        return {}

    def settled(self) -> Self:
        """Give the scenario with those defaults filled in that depend on other settings."""
        return self
