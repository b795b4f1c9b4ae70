"""Load a scenario: read, override, expand into arms, validate all of it, and tell every fault at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedmomentum.scenario.expand import Draft, expand
from fedmomentum.scenario.explain import explain, place_of
from fedmomentum.scenario.faults import Fault, ScenarioError, did_you_mean, show, write_path
from fedmomentum.scenario.overlay import overlay, override
from fedmomentum.scenario.read import find, read
from fedmomentum.scenario.resolved import digest, resolve
from fedmomentum.scenario.shape import KINDS, AnyScenario, Shape
from fedmomentum.scenario.tree import Member, Node, Problem, Unreadable, parse


@dataclass(frozen=True)
class Arm:
    """One run of a scenario.

    Attributes:
        name: of the arm; empty where the scenario has only one.
        scenario: validated, every default filled in.
        overrides: what the arm changes, as nested plain data.
        group: the arm without its seed; several seeds of one arm share a group.
    """

    name: str
    scenario: AnyScenario
    overrides: dict[str, Any] = field(default_factory=dict)
    group: str = ""


@dataclass(frozen=True)
class LoadedScenario:
    """A scenario that can be run.

    Attributes:
        scenario: that of the first arm. ``name``, ``question`` and ``expect`` are those of all.
        arms: the runs; at least one.
        text: the file as it was written.
        path: the file.
        document: the file with its overrides, as plain data, before arms and defaults.
    """

    scenario: AnyScenario
    arms: tuple[Arm, ...]
    text: str
    path: Path
    document: dict[str, Any]

    def resolved(self) -> dict[str, Any]:
        """Give the scenario with every default, as plain data; loading it again gives the same arms and hash."""
        groups: dict[str, AnyScenario] = {}
        for arm in self.arms:
            groups.setdefault(arm.group, arm.scenario)  # the first of its seeds
        repeated = self.arms[0].name != self.arms[0].group
        return resolve(groups, len(self.arms) // len(groups) if repeated else None)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the resolved scenario, in hexadecimal: any setting changes it, order and comments do not."""
        return digest(self.resolved())

    @property
    def callables(self) -> list[str]:
        """The user's own ``package.module:callable`` that running the scenario imports."""
        blocks = [block for arm in self.arms for block in arm.scenario.__dict__.values()]
        blocks += [block.partition for block in blocks if hasattr(block, "partition")]
        names = {getattr(block, "name", "") for block in blocks}
        return sorted(name for name in names if isinstance(name, str) and ":" in name)


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> LoadedScenario:
    """Load a scenario from a file, or one that comes with the package by its name.

    Args:
        path: a YAML file, or the name of a shipped scenario.
        overrides: changes such as ``client.optimizer.lr=1e-2``, laid over the file in this order; arms and sweeps are
            laid over the result. ``arms=null``, ``sweep=null`` and ``expect=null`` take these away.

    Raises:
        ScenarioError: holds everything that is wrong, each with its file, line and column.
    """
    file = find(path)
    text = read(file)
    name = os.fspath(file)
    try:
        tree, problems = parse(text)
    except Unreadable as error:
        raise ScenarioError([_fault(name, error.problem)]) from None
    if not isinstance(tree.value, dict):
        what = f"expected a mapping of settings, not {show(tree.plain())}"
        what = "the file is empty" if tree.value is None else what
        raise ScenarioError([_fault(name, Problem(tree.place, (), f"{what}; it begins with 'kind: federated'"))])

    tree, schema, more = _prepare(tree, overrides, default_name=file.stem)
    problems += more
    arms: list[Arm] = []
    if schema is not None:
        arms, more = _validate(tree, schema)
        problems += more
    if problems:
        raise ScenarioError([_fault(name, problem) for problem in problems])
    return LoadedScenario(arms[0].scenario, tuple(arms), text, file, tree.plain())


def _prepare(
    tree: Node, overrides: Sequence[str], default_name: str
) -> tuple[Node, type[AnyScenario] | None, list[Problem]]:
    """Lay the overrides over the file, name it, and find the schema of its kind."""
    problems: list[Problem] = []
    kind = tree.child("kind")
    root = Shape("", {"": KINDS.get(str(kind.value) if kind else "", KINDS["federated"])})
    for text in overrides:
        changes, bad = override(text)
        problems += bad
        if changes is not None:
            nulls = {key for key, member in changes.members.items() if member.node.value is None}
            gone = nulls & {"arms", "sweep", "expect"}
            tree = overlay(tree, changes, root)
            tree = replace(tree, value={key: member for key, member in tree.members.items() if key not in gone})
    if "name" not in tree.members:
        head = Member(tree.place, Node(_as_name(default_name), tree.place))
        tree = replace(tree, value={"name": head, **tree.members})
    kind = tree.child("kind")
    if kind is None and (problem := _other_kind(tree)) is not None:
        return tree, None, [*problems, problem]
    wanted = "federated" if kind is None else kind.value
    if kind is not None and (not isinstance(wanted, str) or wanted not in KINDS):
        guess = did_you_mean(wanted, KINDS) if isinstance(wanted, str) else ""
        message = f"expected {', '.join(KINDS)}, not {show(kind.plain())}{guess}"
        return tree, None, [*problems, Problem(kind.place, ("kind",), message)]
    return tree, KINDS[str(wanted)], problems


def _other_kind(tree: Node) -> Problem | None:
    """Say so if what has no ``kind`` cannot be meant as a federated scenario: one fault in place of one a key."""
    keys = [key for key in tree.members if key != "name"]
    known = {kind: [key for key in keys if key in schema.model_fields] for kind, schema in KINDS.items()}
    kind = max(known, key=lambda kind: len(known[kind]))
    if keys and not known[kind]:
        message = (
            f"{show(keys[0])} is not a setting of a scenario, nor is any other key; it begins with 'kind: federated'"
        )
        return Problem(tree.place, (), message)
    if len(known[kind]) > len(known["federated"]):
        own = next(key for key in known[kind] if key not in known["federated"])
        return Problem(tree.place, ("kind",), f"is missing; with '{own}' it is 'kind: {kind}'")
    return None


def _as_name(stem: str) -> str:
    return "".join(c if c.isalnum() or c in "._+-" else "-" for c in stem)[:80]


def _validate(tree: Node, schema: type[AnyScenario]) -> tuple[list[Arm], list[Problem]]:
    """Validate every arm; what is wrong with all of them is told once, and else the arms are named."""
    _, whole = _model(schema, tree)
    about_arms = [problem for problem in whole if problem.path[:1] in (("arms",), ("sweep",))]
    if about_arms:
        return [], whole
    drafts, problems = expand(tree, schema)
    if not drafts:
        return [], [*problems, *(problem for problem in whole if problem not in problems)]
    arms: list[Arm] = []
    told: dict[Problem, list[str]] = {}
    for draft in drafts:
        scenario, wrong = _model(schema, draft.tree)
        for problem in wrong:
            told.setdefault(problem, []).append(draft.name)
        if scenario is not None:
            arms.append(Arm(draft.name, scenario.settled(), draft.changes.plain(), draft.group))
    everywhere = set(whole)
    for problem, names in told.items():
        if problem in everywhere and len(names) == len(drafts):
            problems.append(problem)
        else:
            problems.append(replace(problem, message=f"{_arms(names, drafts)}{problem.message}"))
    return arms, [*problems, *_claims(tree, drafts)]


def _model(schema: type[AnyScenario], tree: Node) -> tuple[AnyScenario | None, list[Problem]]:
    try:
        return schema.model_validate(tree.plain()), []
    except ValidationError as error:
        return None, explain(error, schema, tree)


def _arms(names: Sequence[str], drafts: Sequence[Draft]) -> str:
    """Name the arms that a problem is in; of arms that are wrong with every seed, the seeds are not listed."""
    if len(names) == len(drafts):
        return "every arm: " if len(drafts) > 1 else f"arm '{names[0]}': " if names[0] else ""
    wrong = set(names)
    groups = dict.fromkeys(draft.group if draft.group else draft.name for draft in drafts if draft.name in wrong)
    shown = ", ".join(f"'{name}'" for name in list(groups)[:2])
    more = f" and {len(groups) - 2} more" if len(groups) > 2 else ""
    return f"{'arm' if len(groups) == 1 else 'arms'} {shown}{more}: "


def _claims(tree: Node, drafts: Sequence[Draft]) -> list[Problem]:
    """Find the claims about arms that there are not."""
    known = dict.fromkeys(name for draft in drafts for name in (draft.group, draft.name) if name)
    several = len({draft.group for draft in drafts}) > 1
    problems: list[Problem] = []
    claims = tree.child("expect")
    for index, claim in enumerate(claims.value if claims is not None and isinstance(claims.value, list) else ()):
        for key in ("arm", "than"):
            named = claim.child(key)
            if named is None or named.value is None:
                if key == "arm" and several and claim.members:
                    path = ("expect", index, "arm")
                    problems.append(Problem(place_of(tree, path), path, f"is missing; the arms are {_some(known)}"))
            elif isinstance(named.value, str) and named.value not in known:
                guess = did_you_mean(named.value, known)
                message = f"there is no arm {show(named.value)}{guess or ';'} the arms are {_some(known)}"
                problems.append(Problem(named.place, ("expect", index, key), message))
    return problems


def _some(names: dict[str, None]) -> str:
    shown = list(names)[:8]
    return (", ".join(shown) or "without names") + (", ..." if len(names) > 8 else "")


def _fault(file: str, problem: Problem) -> Fault:
    path, place = write_path(problem.path), problem.place
    if not place.override:
        return Fault(file, place.line, place.column, path, problem.message)
    if place.override.partition("=")[0].strip() == path:
        path = ""  # the override itself says it
    return Fault(f"--set {place.override}", None, None, path, problem.message)
