"""The schema as people read it: what is expected at a path, in words, and which block a part of a scenario is."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

import annotated_types as at
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedmomentum.scenario.analogy import AnalogyScenario
from fedmomentum.scenario.block import CUSTOM, Block, ByName, tag, tag_of
from fedmomentum.scenario.dump import as_yaml
from fedmomentum.scenario.federated import FederatedScenario
from fedmomentum.scenario.optimize import OptimizeScenario
from fedmomentum.scenario.sample import SampleScenario

AnyScenario: TypeAlias = FederatedScenario | AnalogyScenario | OptimizeScenario | SampleScenario
"""A scenario of any kind."""

KINDS: Mapping[str, type[AnyScenario]] = {
    "federated": FederatedScenario,
    "analogy": AnalogyScenario,
    "optimize": OptimizeScenario,
    "sample": SampleScenario,
}
"""``kind`` -> schema. A further kind of scenario is a further entry."""


@dataclass(frozen=True)
class Shape:
    """What is expected somewhere.

    Attributes:
        words: the expected value, for a message: ``a number > 0``.
        blocks: the blocks that may stand there, by the name that picks one; a block without a name is under ``""``.
        named: whether a ``name`` picks the block.
        item: what the items of a list, or the values of a mapping with free keys, are.
        options: the words that are allowed.
        mixed: whether either a block or a scalar may stand there.
    """

    words: str
    blocks: Mapping[str, type[Block]] = field(default_factory=dict)
    named: bool = False
    item: Shape | None = None
    options: tuple[str, ...] = ()
    mixed: bool = False

    def block(self, name: object = None) -> type[Block] | None:
        """Give the block that a value with this ``name`` is; None if there is none."""
        if not self.named:
            return next(iter(self.blocks.values()), None)
        return self.blocks.get(tag_of(name) or "")

    def shared(self) -> frozenset[str]:
        """Give the settings that all the named blocks have: those that outlive a change of the name."""
        fields = [frozenset(block.model_fields) for name, block in self.blocks.items() if name != CUSTOM]
        return frozenset.intersection(*fields) - {"name"} if fields else frozenset()


def shape_of(annotation: Any, metadata: Sequence[Any] = ()) -> Shape:
    """Read a type annotation and its constraints."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [part for more in arguments[1:] for part in (more.metadata if isinstance(more, FieldInfo) else [more])]
        return shape_of(arguments[0], [*inner, *metadata])
    if any(isinstance(mark, ByName) for mark in metadata):
        blocks = {tag(block): block for block in arguments or (annotation,)}
        return Shape(f"a mapping with a name ({', '.join(blocks)})", blocks, named=True)
    if origin in (Union, types.UnionType):
        return _union([shape_of(member, metadata if _takes_bounds(member) else ()) for member in arguments])
    if origin is Literal:
        *most, last = map(str, arguments)
        return Shape(f"{', '.join(most)} or {last}" if most else last, options=tuple(arguments))
    if annotation is None or annotation is type(None):
        return Shape("null")
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return Shape("a mapping with " + ", ".join(annotation.model_fields), {"": annotation})
    if origin in (tuple, list):
        items = shape_of(arguments[0])
        several = f"{len(arguments)} items" if origin is tuple and arguments[-1] is not ... else "items"
        least = next((f", at least {m.min_length}" for m in metadata if isinstance(m, at.MinLen)), "")
        each = "" if items.words == "anything" else f", each {items.words}"
        return Shape(f"a list of {several}{least}{each}", item=items)
    if origin is dict:
        return Shape("a mapping", item=shape_of(arguments[1]))
    return Shape(_scalar_words(annotation, metadata))


def field_shape(info: FieldInfo) -> Shape:
    """Give what is expected of a field of a block."""
    return shape_of(info.annotation, info.metadata)


def _takes_bounds(member: Any) -> bool:
    return get_origin(member) is not Literal and member not in (None, type(None))


def _union(members: list[Shape]) -> Shape:
    last = [m for m in members if m.words == "null"]
    members = [m for m in members if m.words != "null"] + last
    blocks = {name: block for member in members for name, block in member.blocks.items()}
    merged = replace(members[0], words=" or ".join(m.words for m in members), blocks=blocks)
    item = next((m.item for m in members if m.item is not None), None)
    return replace(
        merged,
        named=any(m.named for m in members),
        item=item,
        options=tuple(option for m in members for option in m.options),
        mixed=bool(blocks) and any(not m.blocks and m not in last for m in members),
    )


def _scalar_words(annotation: Any, metadata: Sequence[Any]) -> str:
    noun = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(annotation, "anything")
    bounds: list[str] = []
    for mark in metadata:
        match mark:
            case at.Ge(ge=bound):
                bounds.append(f">= {bound:,}")
            case at.Gt(gt=bound):
                bounds.append(f"> {bound:,}")
            case at.Le(le=bound):
                bounds.append(f"<= {bound:,}")
            case at.Lt(lt=bound):
                bounds.append(f"< {bound:,}")
            case at.MinLen():
                bounds.append("that is not empty")
            case at.MaxLen(max_length=length):
                bounds.append(f"of at most {length} characters")
            case _ if pattern := getattr(mark, "pattern", None):
                noun = _PATTERNS.get(pattern, f"text like {pattern}")
    return f"{noun} {' and '.join(bounds)}".strip()


_PATTERNS = {
    r"^(auto|cpu|cuda(:\d+)?)$": "auto, cpu, cuda or cuda:1",
    r"^[\w.+-]*$": "letters, digits and . _ + -",
    r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$": CUSTOM,
}


@dataclass(frozen=True)
class Setting:
    """One row of the reference: a setting of a block."""

    name: str
    words: str
    default: str
    description: str
    shape: Shape


def settings(block: type[Block]) -> list[Setting]:
    """Give the settings of a block, its ``name`` first."""
    rows = []
    for name, info in sorted(block.model_fields.items(), key=lambda item: item[0] not in ("kind", "name")):
        shape = field_shape(info)
        rows.append(Setting(name, shape.words, _default(info), info.description or "", shape))
    return rows


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return ""
    value = info.default
    if isinstance(value, BaseModel):
        given = value.model_dump(mode="json", exclude_unset=True)
        return as_yaml(given, flow=True) if given else "{}"
    return as_yaml(list(value) if isinstance(value, tuple) else value, flow=True)


def choices(path: str, *, kind: str = "federated") -> dict[str, str]:
    """Give the names that may stand at a path such as ``client.optimizer``, each with a line about it.

    Raises:
        KeyError: there is no such path, or no choice of names at it.
    """
    shape = Shape("", {"": KINDS[kind]})
    for part in path.split("."):
        fields = [block.model_fields[part] for block in shape.blocks.values() if part in block.model_fields]
        if not fields:
            raise KeyError(path)
        shape = field_shape(fields[0])
    if not shape.named:
        raise KeyError(path)
    return {name: summary(block) for name, block in shape.blocks.items()}


def summary(block: type[Block]) -> str:
    """Give the first line of what a block says of itself."""
    return (block.__doc__ or "").strip().splitlines()[0].replace("``", "`")
