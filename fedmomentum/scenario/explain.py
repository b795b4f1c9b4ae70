"""From pydantic's errors to problems that a person can act on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from fedmomentum.scenario.block import CUSTOM, MISFITS, Block, Misfit
from fedmomentum.scenario.faults import did_you_mean, show, write_path
from fedmomentum.scenario.shape import Shape, field_shape
from fedmomentum.scenario.tree import Node, Place, Problem, scalar

Path = tuple[str | int, ...]


@dataclass
class _Site:
    """Where an error belongs: the path without pydantic's tags, what is expected there, and the block around it."""

    path: Path
    shape: Shape
    block: type[Block] | None
    siblings: Mapping[str, type[Block]] = field(default_factory=dict)
    """The blocks that another name would have picked instead of ``block``."""


def explain(error: ValidationError, model: type[Block], root: Node) -> list[Problem]:
    """Say every fault that pydantic found, one for each path, at the place where the user wrote it.

    Args:
        error: of validating ``root.plain()`` against ``model``.
        model: the schema.
        root: the scenario with its places.
    """
    problems: dict[tuple[Path, str], Problem] = {}
    for raw in error.errors(include_url=False, include_input=False):
        for problem in _problems(raw["type"], raw["loc"], raw.get("ctx", {}), model, root):
            problems.setdefault((problem.path, problem.message), problem)
    return list(problems.values())


def place_of(root: Node, path: Sequence[str | int]) -> Place:
    """Give the place of the value at a path; where it is not written, that of the key of what should hold it."""
    node, place = root, root.place
    for depth, part in enumerate(path):
        inner = node.child(part)
        if inner is None:
            return place
        last = depth == len(path) - 1
        place = node.members[part].key if isinstance(part, str) and not last else inner.place
        node = inner
    return place


def _problems(kind: str, loc: Path, context: Any, model: type[Block], root: Node) -> Iterator[Problem]:
    site = _locate(loc, model, root)
    if site is None:
        return
    if kind == MISFITS:
        for misfit in context[MISFITS]:
            assert isinstance(misfit, Misfit)
            path = (*site.path, *misfit.path)
            yield Problem(place_of(root, path), path, misfit.message)
        return
    node = _at(root, site.path)
    if kind == "extra_forbidden":
        holder = _at(root, site.path[:-1])
        place = holder.members[str(site.path[-1])].key if holder else root.place
        yield Problem(place, site.path, _unknown_key(str(site.path[-1]), site, holder))
    elif kind == "missing":
        holder = _at(root, site.path[:-1])
        yield Problem(
            place_of(root, site.path), site.path, f"is missing{_misspelt(site, holder)}; expected {site.shape.words}"
        )
    elif kind.startswith("union_tag") and node is not None and isinstance(node.value, dict):
        yield _wrong_name(site, node, root)
    elif node is not None:
        found = f"{show(node.plain())}{_hint(site, node)}"
        yield Problem(node.place, site.path, f"expected {site.shape.words}, not {found}")
    else:
        yield Problem(place_of(root, site.path), site.path, f"expected {site.shape.words}")


def _locate(loc: Path, model: type[Block], root: Node) -> _Site | None:
    """Walk pydantic's location through the schema, leaving out what it adds for the members of a union.

    None: the error is that a mapping is no scalar, where a block may stand as well; the block says what is wrong.
    """
    shape, block = Shape("a mapping", {"": model}), None
    siblings: Mapping[str, type[Block]] = {}
    path: Path = ()
    for part in loc:
        node = _at(root, path)
        if shape.named and (node is None or isinstance(node.value, dict)) and part in shape.blocks:
            siblings = shape.blocks
            shape = Shape(shape.words, {"": shape.blocks[str(part)]})
        elif shape.item is not None and not (shape.blocks and isinstance(part, str)):
            path, shape = (*path, part), shape.item
        elif shape.mixed:
            if node is None or not isinstance(node.value, dict):
                break
            if not any(block.__name__ in str(part) for block in shape.blocks.values()):
                return None
            shape = replace(shape, mixed=False)
        elif (inner := shape.block()) is not None and not shape.named:
            block = inner
            if part not in inner.model_fields:
                return _Site((*path, part), Shape("nothing"), inner, siblings)
            path, shape, siblings = (*path, part), field_shape(inner.model_fields[str(part)]), {}
        else:
            break
    return _Site(path, shape, block)


def _at(root: Node, path: Path) -> Node | None:
    node: Node | None = root
    for part in path:
        if node is None:
            return None
        node = node.child(part)
    return node


def _title(site: _Site, holder: Node | None) -> str:
    """Name the block that a setting is in: ``strategy 'fedavgm'``, ``client``, ``a scenario``."""
    where = write_path(site.path[:-1]) or "a scenario"
    name = holder.child("name") if holder and len(site.path) > 1 else None
    return f"{where} '{name.value}'" if name is not None and isinstance(name.value, str) else where


def _unknown_key(key: str, site: _Site, holder: Node | None) -> str:
    assert site.block is not None
    fields = sorted(site.block.model_fields, key=lambda name: name not in ("kind", "name"))
    if "." in key and key.split(".")[0] in fields:
        return f"a dotted path is for arms, sweeps and --set; write {show(key)} as nested mappings"
    guess = did_you_mean(key, fields)
    others = [name for name, block in site.siblings.items() if key in block.model_fields]
    if others:
        guess = f" ({' and '.join(others)} would take it);"
    elif not guess and (deeper := _deeper(key, site.block)):
        head = write_path(site.path[:-1])
        guess = f"; did you mean {' or '.join(repr(f'{head}.{path}'.removeprefix('.')) for path in deeper)}?"
    return f"unknown key {show(key)}{guess or ';'} {_title(site, holder)} takes {', '.join(fields)}"


def _deeper(key: str, block: type[Block]) -> list[str]:
    """Give the paths below a block at which there is a setting of this name: the shortest ones, three at most."""
    found: dict[str, None] = {}
    for name, info in block.model_fields.items():
        for inner in field_shape(info).blocks.values():
            below = [key] if key in inner.model_fields else _deeper(key, inner)
            found.update((f"{name}.{path}", None) for path in below)
    least = min((path.count(".") for path in found), default=0)
    return [path for path in found if path.count(".") == least][:3]


def _misspelt(site: _Site, holder: Node | None) -> str:
    """Say which of the unknown keys beside a missing setting may have been meant for it."""
    if site.block is None or holder is None:
        return ""
    unknown = [key for key in holder.members if key not in site.block.model_fields]
    near = next((key for key in unknown if did_you_mean(key, [str(site.path[-1])])), None)
    return f" (is {show(near)} meant?)" if near else ""


def _wrong_name(site: _Site, node: Node, root: Node) -> Problem:
    names, path = list(site.shape.blocks), (*site.path, "name")
    written = node.child("name")
    if written is None:
        return Problem(place_of(root, path), path, f"is missing; expected {_one_of(names)}")
    value = written.value
    if not isinstance(value, str):
        return Problem(written.place, path, f"expected {_one_of(names)}, not {show(written.plain())}")
    guess = did_you_mean(value, names) or ";"
    if ":" in value and CUSTOM not in names:
        guess = "; your own code cannot stand here;"
    return Problem(written.place, path, f"unknown name {show(value)}{guess} expected {_one_of(names)}")


def _one_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"one of {', '.join(names)}"


def _hint(site: _Site, node: Node) -> str:
    value, words = node.value, site.shape.words
    if not isinstance(value, str):
        return ""
    if "true or false" in words and value.lower() in ("yes", "no", "on", "off"):
        return f" (write {'true' if value.lower() in ('yes', 'on') else 'false'})"
    if (value, str(site.path[-1])) in _BY_CURVATURE and "number" in words:
        return _BY_CURVATURE[value, str(site.path[-1])]
    if "number" in words and not isinstance(_as_written(value), str):
        return " (a number in quotes is text; leave them out)"
    return did_you_mean(value, site.shape.options)


_BY_CURVATURE = {
    ("safe", "lr"): "; safe is a client's, of the optimizers sgd, heavy_ball, ema and nesterov",
    ("critical", "momentum"): "; critical is a client's, of the optimizers heavy_ball, ema and nesterov",
}
"""What a client's optimizer takes and other places do not."""


def _as_written(text: str) -> object:
    try:
        return scalar(text)
    except ValueError:
        return text
