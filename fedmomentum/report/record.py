"""The sections of a report that say what was run, where, and how to run it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from fedmomentum.report.gather import Arm, Source, mapping, unit_of
from fedmomentum.report.markup import Content, Html, join, table, tag, text
from fedmomentum.report.numbers import plural, real, size
from fedmomentum.report.pieces import MOST_LINES, details, named, note, section

MOST_VALUE = 300
"""Characters of one setting."""
MOST_YAML = 300_000
"""Characters of scenario files on the page, all runs together."""
NOT_SETTINGS = ("kind", "name", "question", "expect", "arms", "sweep")


def setting(sources: Sequence[Source]) -> Html:
    """Show the settings of each run, block by block, with what its arms change and what the engine chose."""
    columns = [_settings(source) for source in sources]
    parts = [_side_by_side(sources, columns, "Settings")]
    for source in sources:
        arms = mapping(source.scenario.get("arms"))
        if arms:
            rows = [
                [named(str(name)), tag("td", text(describe(changes), most=MOST_VALUE))]
                for name, changes in arms.items()
            ]
            title = f"What differs between the arms{f', {source.label}' if len(sources) > 1 else ''}"
            heads: list[Content] = ["arm", "its settings"]
            parts += [tag("h3", title), table(heads, rows[:MOST_LINES], label=title, left=2, class_="words")]
    return section("setting", "Setting", *parts)


def _settings(source: Source) -> dict[str, str]:
    found = {
        key.replace("_", " "): describe(value)
        for key, value in source.scenario.items()
        if key not in NOT_SETTINGS and value not in (None, {}, [])
    }
    sweep = mapping(source.scenario.get("sweep"))
    if sweep:
        found["sweep"] = describe(sweep)
    facts = source.arms[0].facts if source.arms else {}
    chosen = {key: value for key, value in facts.items() if key not in ("data_checksum", "vectorize_reason")}
    if chosen:
        found["chosen by the engine"] = describe(chosen)
    return found


def describe(value: object) -> str:
    """Write a setting in words: ``dirichlet (clients 40, alpha 0.1)``; what is null or empty is left out."""
    if isinstance(value, Mapping):
        rest = [
            f"{key} {describe(item)}" for key, item in value.items() if key != "name" and item not in (None, {}, [])
        ]
        words = ", ".join(word.replace("_", " ", 0) for word in rest)
        name = value.get("name")
        if name is None:
            return words
        return f"{name} ({words})" if words else str(name)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(describe, value))}]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _side_by_side(sources: Sequence[Source], columns: Sequence[Mapping[str, str]], label: str) -> Html:
    """Show a column a run; rows in which runs differ are marked."""
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = []
    for key in keys:
        values = [column.get(key, "") for column in columns]
        differ = "differs" if len(set(values)) > 1 else None
        cells = (tag("td", text(value, most=MOST_VALUE), class_=differ) for value in values)
        rows.append([tag("th", key, scope="row"), *cells])
    heads: list[Content] = (
        [label.lower(), *(named(source.label) for source in sources)] if len(sources) > 1 else [label.lower(), "value"]
    )
    return table(heads, rows, label=label, left=len(heads), class_="words")


def failures(sources: Sequence[Source], federated: bool = True) -> Html | None:
    """Name every client whose reply was not used, why, and in which rounds; nothing where there are no clients."""
    arms = [arm for source in sources for arm in source.arms]
    found: dict[tuple[str, str, str, str], list[float]] = {}
    for arm in arms:
        for row in arm.failures:
            who = (arm.label, str(row.get("kind", "error")), str(row.get("client", "?")), str(row.get("reason", "")))
            found.setdefault(who, []).append(real(row.get("round")))
    messages = [_message(arm) for arm in arms if arm.status.get("message")]
    messages += [
        note(tag("strong", source.label), ": ", text(message)) for source in sources for message in source.notes
    ]
    if not found and not federated:
        return section("failures", "Failures", *messages) if messages else None
    if not found:
        return section("failures", "Failures", tag("p", "Every reply was used."), *messages)
    kinds: dict[str, int] = {}
    for (_, kind, _, _), rounds in found.items():
        kinds[kind] = kinds.get(kind, 0) + len(rounds)
    counts = ", ".join(
        f"{count} {text(kind, most=40)}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1])
    )
    several = len(arms) > 1
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    rows = [
        [f"client {text(client, most=40)}", *([named(arm)] if several else []), text(kind, most=40),
         text(reason, most=MOST_VALUE), str(len(rounds)), tag("td", _rounds(rounds))]
        for (arm, kind, client, reason), rounds in ordered[:MOST_LINES]
    ]  # fmt: skip
    heads: list[Content] = [
        "client",
        *(["arm"] if several else []),
        "kind",
        "reason",
        "times",
        tag("th", "rounds", scope="col"),
    ]
    more = len(found) - MOST_LINES
    return section(
        "failures",
        "Failures and rejected clients",
        tag("p", f"Replies that were not used: {counts}."),
        table(heads, rows, label="Failures", left=4 if several else 3, class_="words"),
        note(f"{more} more are in failures.jsonl.") if more > 0 else None,
        *messages,
    )


def _message(arm: Arm) -> Html:
    return tag("p", named(arm.label), ": ", text(arm.status["message"], most=1000), class_="bad-text")


def _rounds(found: Sequence[float]) -> str:
    """Write round numbers as ranges: ``1–3, 7``; a long list is cut."""
    rounds = sorted({int(r) for r in found if r == r and abs(r) < 1e15})
    ranges: list[list[int]] = []
    for r in rounds:
        if ranges and r == ranges[-1][1] + 1:
            ranges[-1][1] = r
        else:
            ranges.append([r, r])
    words = [str(a) if a == b else f"{a}–{b}" for a, b in ranges]
    return ", ".join(words[:20]) + (f" and {len(words) - 20} more" if len(words) > 20 else "")


def provenance(sources: Sequence[Source]) -> Html:
    """Show versions, code, machine and checksums of the data of each run."""
    columns = [_origin(source) for source in sources]
    return section("provenance", "Provenance", _side_by_side(sources, columns, "Provenance"))


def _origin(source: Source) -> dict[str, str]:
    facts = source.provenance
    machine = mapping(facts.get("machine"))
    found = {
        "run folder": source.path.name,
        "status": f"{source.state}, {plural(real(source.status.get('rounds_done')), unit_of(source))}",
        "started": _when(source.status.get("started") or facts.get("started")),
        "ended": _when(source.status.get("ended")),
        "scenario": f"sha256 {source.status['hash']}" if source.status.get("hash") else "",
    }
    for name, checkout in mapping(facts.get("git")).items():
        found[f"commit of {str(name).replace('_', ' ')}"] = _commit(mapping(checkout))
    found |= {str(name): str(version) for name, version in mapping(facts.get("versions")).items() if version}
    found |= {
        "system": str(machine.get("system") or ""),
        "processor": _processor(machine),
        "memory": size(memory) if (memory := real(machine.get("memory_bytes"))) == memory else "",
        "GPUs": describe(machine.get("gpus") or ""),
    }
    found |= {f"data {name}": f"sha256 {checksum}" for name, checksum in mapping(facts.get("data")).items()}
    return {key: value for key, value in found.items() if value}


def _when(value: object) -> str:
    return f"{str(value)[:19].replace('T', ' ')} UTC" if value else ""


def _commit(checkout: Mapping[str, Any]) -> str:
    return f"{checkout.get('commit', '?')}{', with changes' if checkout.get('dirty') else ''}"


def _processor(machine: Mapping[str, Any]) -> str:
    words = [str(machine["cpu"])] if machine.get("cpu") else []
    words += [f"{machine['cores']} cores"] if machine.get("cores") else []
    return ", ".join(words)


def repeat(sources: Sequence[Source]) -> Html:
    """Give the commands that do each run again, with the scenario that they need."""
    room = MOST_YAML // (2 * max(1, len(sources)))
    parts: list[Html] = []
    for source in sources:
        if len(sources) > 1:
            parts.append(tag("h3", named(source.label)))
        parts.append(_command(source))
        name = f"{_file(source.name)}.yaml"
        where = f"{source.path.name}/resolved.yaml"
        parts.append(_yaml(f"{name}: every setting, as it was run", source.resolved, room, where))
        parts.append(_yaml("The scenario as it was written", source.text, room, f"{source.path.name}/scenario.yaml"))
    return section("repeat", "To repeat this", *parts)


def _command(source: Source) -> Html:
    versions = mapping(source.provenance.get("versions"))
    pins = [f"{name}=={version}" for name, version in versions.items() if version and name != "python"]
    lines = [f"pip install {' '.join(shlex.quote(pin) for pin in pins)}"] if pins else []
    commit = mapping(mapping(source.provenance.get("git")).get("fedmomentum")).get("commit")
    if commit:
        lines.insert(0, f"git checkout {shlex.quote(str(commit))}   # in a checkout of fedmomentum")
    lines.append(f"fedmomentum run {_file(source.name)}.yaml   # the file below")
    typed = source.provenance.get("command")
    words = None
    if isinstance(typed, list) and typed:
        program = "fedmomentum" if str(typed[0]) in ("__main__.py", "fedmomentum") else str(typed[0])
        words = note(
            "It was started with ", tag("code", text(shlex.join([program, *map(str, typed[1:])]), most=MOST_VALUE))
        )
    return join([_code("\n".join(text(line, most=1000) for line in lines)), words])


def _file(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._+-" else "-" for c in name)[:80] or "scenario"


def _yaml(title: str, content: str, room: int, where: str) -> Html:
    if not content:
        return Html("")
    if len(content) > room:
        return note(f"{title}: {len(content):,} characters, in {where}")
    return details(title, _code(content))


def _code(content: str) -> Html:
    copy = tag("button", "Copy", type="button", class_="copy")
    return tag("div", copy, tag("pre", tag("code", content), tabindex=0), class_="code")
