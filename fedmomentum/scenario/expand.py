"""From ``arms`` or ``sweep`` to the changes that make each arm."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fedmomentum.scenario.faults import show
from fedmomentum.scenario.overlay import chain, is_path, nested, overlay
from fedmomentum.scenario.scenario import Scenario
from fedmomentum.scenario.shape import Shape
from fedmomentum.scenario.tree import Node, Place, Problem

MOST_ARMS = 1000
FIXED = ("kind", "name", "question", "arms", "sweep", "expect")
"""What is said of a scenario as a whole: no arm can change it."""

_NAME = re.compile(r"[\w(][\w .,=+()-]{0,199}(?<![ .])")
LONGEST_POINT = 90
"""Characters of the name of a point of a sweep: an arm's name and a seed join it."""


@dataclass(frozen=True)
class Draft:
    """An arm before it is validated: its name, the arm it is a seed of, its changes, and the whole tree."""

    name: str
    group: str
    changes: Node
    tree: Node


def expand(tree: Node, schema: type[Scenario]) -> tuple[list[Draft], list[Problem]]:
    """Give the arms of a scenario; one without a name if it asks for none.

    Args:
        tree: a scenario whose ``arms`` and ``sweep`` are valid in themselves.
        schema: of its kind.

    Returns:
        The arms, in the order of the file (the last setting of a grid changes fastest, seeds fastest of all), and what
        is wrong with their names and paths. Where there are arms and a sweep, every arm takes every point.
    """
    shape = Shape("", {"": schema})
    base = replace(tree, value={key: m for key, m in tree.members.items() if key not in ("arms", "sweep")})
    arms, sweep = tree.child("arms"), tree.child("sweep") or Node(None)
    named, problems = _from_arms(arms) if arms is not None and arms.members else ([("", Node({}))], [])
    points, more = _from_lists(sweep)
    problems += more
    seeds = sweep.child("seeds")
    count = seeds.value if seeds is not None and isinstance(seeds.value, int) else None
    if (size := len(named) * len(points) * (count or 1)) > MOST_ARMS:
        place = tree.members["sweep"].key if "sweep" in tree.members else tree.place
        return [], [Problem(place, ("sweep",), f"makes {size} arms; the most is {MOST_ARMS}")]
    drafts = []
    for (arm, changes), (point, settings) in itertools.product(named, points):
        name = ",".join(part for part in (arm, point) if part)
        if arms is not None and point and not _NAME.fullmatch(name):
            where = ("arms", arm)
            return [], [Problem(arms.members[arm].key, where, "is too long a name for the points of a sweep")]
        both = overlay(changes, settings)
        drafts.append(Draft(name, name, both, overlay(overlay(base, changes, shape), settings, shape)))
    if count is not None and seeds is not None:
        drafts = [one for draft in drafts for one in _repeat(draft, count, seeds.place, shape)]
    return drafts, problems


def _from_arms(arms: Node) -> tuple[list[tuple[str, Node]], list[Problem]]:
    named, problems, seen = [], [], dict[str, str]()
    for name, member in arms.members.items():
        where = ("arms", name)
        if not _NAME.fullmatch(name):
            rule = "up to 200 letters, digits, spaces and . , = + - _ ( )"
            problems.append(Problem(member.key, where, f"{show(name)} cannot name a folder; expected {rule}"))
        if seen.setdefault(name.casefold(), name) != name:
            message = f"{show(name)} and {show(seen[name.casefold()])} would share a folder where case does not count"
            problems.append(Problem(member.key, where, message))
        changes, twice = nested(member.node, where)
        problems += [*twice, *_forbidden(changes, where)]
        named.append((name, changes))
    return named, problems


def _from_lists(sweep: Node) -> tuple[list[tuple[str, Node]], list[Problem]]:
    grid, zipped = (sweep.child(key) or Node({}) for key in ("grid", "zip"))
    axes = [[[(path, item)] for item in _items(member.node)] for path, member in grid.members.items()]
    columns = [[(path, item) for item in _items(member.node)] for path, member in zipped.members.items()]
    if columns:
        axes.append([list(row) for row in zip(*columns, strict=True)])
    keys = {path: member.key for part in (grid, zipped) for path, member in part.members.items()}
    problems = [problem for path in keys for problem in _bad_path(path, keys[path])]
    size = 1
    for axis in axes:
        size *= len(axis)
    if problems or size > MOST_ARMS:
        over = f"makes {size} arms; the most is {MOST_ARMS}"
        return [], problems or [Problem(sweep.place, ("sweep",), over)]
    labels = _short(keys)
    named: list[tuple[str, Node]] = []
    for point in itertools.product(*axes):
        settings = list(itertools.chain.from_iterable(point))
        changes = Node({}, sweep.place)
        for path, item in settings:
            changes = overlay(changes, chain(path, item, keys[path]))
        name = ",".join(f"{labels[path]}={_label(item)}" for path, item in settings)
        named.append((name[:LONGEST_POINT].rstrip("."), changes))
    return _distinct(named), []


def _repeat(draft: Draft, count: int, place: Place, shape: Shape) -> Iterable[Draft]:
    written = draft.tree.child("seed")
    first = written.value if written is not None and type(written.value) is int else 0
    for seed in range(first, first + count):
        one = chain("seed", Node(seed, place), place)
        name = f"{draft.group},seed={seed}".removeprefix(",")
        yield Draft(name, draft.group, overlay(draft.changes, one), overlay(draft.tree, one, shape))


def _forbidden(changes: Node, where: tuple[str, ...]) -> list[Problem]:
    return [
        Problem(member.key, (*where, key), f"an arm cannot change '{key}', which is said of the scenario as a whole")
        for key, member in changes.members.items()
        if key in FIXED
    ]


def _bad_path(path: str, key: Place) -> list[Problem]:
    if not is_path(path):
        return [Problem(key, ("sweep",), f"{show(path)} is no path of a setting, such as client.optimizer.lr")]
    return _forbidden(chain(path, Node(None), key), ("sweep",))


def _items(node: Node) -> Sequence[Node]:
    return node.value if isinstance(node.value, list) else ()


def _short(paths: Iterable[str]) -> dict[str, str]:
    """Give each path the shortest of its ends that no other path has."""
    ends = {path: [tuple(path.split(".")[-n:]) for n in range(1, path.count(".") + 2)] for path in paths}
    counts = Counter(end for several in ends.values() for end in several)
    return {path: ".".join(next((end for end in ends[path] if counts[end] == 1), ends[path][-1])) for path in ends}


def _label(node: Node) -> str:
    """Write a value for the name of an arm: of a block, its name."""
    match node.value:
        case list(items):
            text = "-".join(map(_label, items))
        case dict(members):
            text = _label(members["name"].node) if "name" in members else "-".join(members)
        case float(number):
            text = f"{number:g}"
        case str(word):
            text = word
        case other:
            text = show(other)
    return re.sub(r"[^\w.+-]", "_", text)[:40]


def _distinct(named: list[tuple[str, Node]]) -> list[tuple[str, Node]]:
    """Number the names that would be the same."""
    seen: Counter[str] = Counter()
    result = []
    for name, changes in named:
        seen[name.casefold()] += 1
        again = seen[name.casefold()]
        result.append((f"{name} ({again})" if again > 1 else name, changes))
    return result
