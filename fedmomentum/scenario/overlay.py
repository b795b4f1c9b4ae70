"""Changes laid over a scenario: ``--set client.epochs=3``, an arm, a point of a sweep."""

from __future__ import annotations

import itertools
from dataclasses import replace

from fedmomentum.scenario.faults import show
from fedmomentum.scenario.shape import Shape, field_shape
from fedmomentum.scenario.tree import Member, Node, Place, Problem, Unreadable, parse

MOST_PARTS = 20
"""A path has fewer parts than this."""


def overlay(base: Node, over: Node, shape: Shape | None = None, default: str | None = None) -> Node:
    """Lay changes over a tree: mappings are merged key by key, everything else is replaced.

    Where a ``name`` changes, the settings of the block go with it, but for those that every block of its union has
    (the number of clients of a partition, the learning rate of an optimizer): they stay. Where a setting is given
    that excludes another, such as ``steps`` and ``epochs``, the other one goes.

    Args:
        base: what is changed; it is left as it is.
        over: the changes.
        shape: what the schema expects here; None below the schema, as in a model's own options.
        default: the name of a block that leaves its name out.
    """
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    was = base.value["name"].node.value if "name" in base.value else default
    now = over.value["name"].node.value if "name" in over.value else was
    block = shape.block(now) if shape else None
    kept = dict(base.value)
    if shape is not None and shape.named and now != was:
        stay = shape.shared() & frozenset(block.model_fields if block else ())
        kept = {key: member for key, member in base.value.items() if key in stay}
    for one in block.alternatives if block else ():
        if any(name in over.value and over.value[name].node.value is not None for name in one.names):
            kept = {key: member for key, member in kept.items() if key not in one.names or key in over.value}
    for key, member in over.value.items():
        if key in kept:
            info = block.model_fields.get(key) if block else None
            below = (field_shape(info), getattr(info.default, "name", None)) if info else ()
            kept[key] = Member(member.key, overlay(kept[key].node, member.node, *below))
        else:
            kept[key] = member
    return replace(base, value=kept)


def is_path(path: str) -> bool:
    """Tell whether a text is a dotted path: words with single dots between them."""
    parts = path.split(".", MOST_PARTS)
    return len(parts) < MOST_PARTS and all(part and not part.isspace() for part in parts)


def chain(path: str, node: Node, key: Place) -> Node:
    """Give the tree that has one value, at a dotted path."""
    for part in reversed(path.split(".")):
        node = Node({part: Member(key, node)}, key)
    return node


def nested(changes: Node, where: tuple[str, ...]) -> tuple[Node, list[Problem]]:
    """Write the dotted paths of an arm as nested mappings.

    Args:
        changes: a mapping whose keys may be dotted.
        where: path of the mapping itself, for the problems.

    Returns:
        The changes, and a problem for each key that is no path and each setting that is there twice.
    """
    result, problems = Node({}, changes.place), []
    taken, inner = set[str](), set[str]()
    for path, member in changes.members.items():
        if not is_path(path):
            problems.append(Problem(member.key, where, f"{show(path)} is no path of a setting"))
            continue
        leaves = [".".join((path, *rest)) for rest in _leaves(member.node)]
        twice = next((leaf for leaf in leaves if leaf in inner or not taken.isdisjoint(_stems(leaf))), None)
        if twice is not None:
            problems.append(Problem(member.key, (*where, path), f"{show(twice)} is there twice"))
            continue
        taken.update(leaves)
        inner.update(stem for leaf in leaves for stem in _stems(leaf)[:-1])
        result = overlay(result, chain(path, member.node, member.key))
    return result, problems


def _leaves(node: Node) -> list[tuple[str, ...]]:
    if not node.members:
        return [()]
    return [(key, *rest) for key, member in node.members.items() for rest in _leaves(member.node)]


def _stems(path: str) -> list[str]:
    """Give the paths on the way to a path, the path itself last."""
    return list(itertools.accumulate(path.split("."), "{}.{}".format))


def override(text: str) -> tuple[Node | None, list[Problem]]:
    """Read ``path=value``; the value is YAML (``client.optimizer.lr=1e-2``, ``data.partition={name: iid}``).

    Returns:
        The changes, or None if they cannot be read, and what is wrong.
    """
    place = Place(override=text)
    path, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not is_path(path):
        return None, [Problem(place, (), "expected PATH=VALUE, such as client.optimizer.lr=0.01")]
    try:
        node, problems = parse(value, override=text)
    except Unreadable as error:
        return None, [error.problem]
    return chain(path, node, place), problems
