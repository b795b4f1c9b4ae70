"""What the blocks of the schema are made of: strict, frozen models, unions told apart by ``name``, bounded numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
"""A part of a whole that is not nothing."""
Probability = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
"""The factor of an exponential average, such as momentum."""
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Auto = Literal["auto"]
Callable = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
"""``package.module:callable`` of the user's own."""

MISFITS = "misfits"
"""Type of the pydantic error that carries the misfits of a block."""
CUSTOM = "package.module:callable"
"""What stands for a callable of the user's own in a list of names."""


@dataclass(frozen=True)
class Misfit:
    """Settings that are each right but do not fit together; ``path`` is relative to the block that says so."""

    path: tuple[str, ...]
    message: str


@dataclass(frozen=True)
class OneOf:
    """Settings of a block of which exactly one is given; an override of one takes the place of the others.

    Args:
        names: the settings; null counts as not given.
        default: setting and value to take where none is given; None if one has to be given.
    """

    names: tuple[str, ...]
    default: tuple[str, Any] | None = None


class Block(BaseModel):
    """A mapping of the schema: immutable, without unknown keys, and strict (``"3"`` is no number)."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        validate_default=False,
        defer_build=True,
    )

    alternatives: ClassVar[tuple[OneOf, ...]] = ()

    def misfits(self) -> Iterator[Misfit]:
        """Tell which settings do not fit together; blocks that have such settings extend this."""
        yield from ()

    @model_validator(mode="before")
    @classmethod
    def _take_defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        missing = [
            one.default for one in cls.alternatives if one.default and all(data.get(name) is None for name in one.names)
        ]
        return {**data, **dict(missing), **cls._default_names(data)}

    @classmethod
    def _default_names(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Name the blocks that leave their ``name`` out: ``{dropout: 0.1}`` is the default block, with a dropout."""
        defaults = {key: getattr(field.default, "name", None) for key, field in cls.model_fields.items()}
        return {
            key: {"name": name, **data[key]}
            for key, name in defaults.items()
            if isinstance(name, str) and isinstance(data.get(key), Mapping) and "name" not in data[key]
        }

    @model_validator(mode="after")
    def _fit(self) -> Self:
        found = [*self._alternatives(), *self.misfits()]
        if found:
            raise PydanticCustomError(MISFITS, "settings that do not fit together", {MISFITS: found})
        return self

    def _alternatives(self) -> Iterator[Misfit]:
        for one in self.alternatives:
            given = [name for name in one.names if getattr(self, name) is not None]
            names = " or ".join(f"'{name}'" for name in one.names)
            if len(given) > 1:
                yield Misfit((given[-1],), f"give {names}, not both (set the other to null)")
            elif not given:
                yield Misfit((), f"give {names}")


def tag(block: type[BaseModel]) -> str:
    """Give the ``name`` that picks a block out of its union; of a block that takes any callable, :data:`CUSTOM`."""
    literal = get_args(block.model_fields["name"].annotation)
    return str(literal[0]) if literal else CUSTOM


def tag_of(name: object) -> str | None:
    """Give the tag that a value of ``name`` asks for; None if it is no name at all."""
    if not isinstance(name, str):
        return None
    return CUSTOM if ":" in name else name


@dataclass(frozen=True)
class ByName:
    """Marks a union of blocks that are told apart by their ``name``: ``Annotated[Sgd | Adam, ByName()]``."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Build a tagged union, so that only the block that is meant says what is wrong."""
        choices = {tag(block): handler.generate_schema(block) for block in get_args(source) or (source,)}
        return core_schema.tagged_union_schema(choices, discriminator=_discriminate)


def _discriminate(value: Any) -> str | None:
    return tag_of(value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None))
