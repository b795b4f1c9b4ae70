"""Plain data as YAML that :mod:`fedmomentum.scenario.tree` reads back as it was."""

from __future__ import annotations

from typing import Any

import yaml

from fedmomentum.scenario.tree import scalar


class _Dumper(yaml.SafeDumper):
    """Quotes every text that would be read as something else; never writes an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    try:
        plain = scalar(text) == text and not text.startswith("<<")
    except ValueError:
        plain = False
    if plain and "\n" not in text:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


_Dumper.add_representer(str, _text)


def as_yaml(value: Any, *, flow: bool = False) -> str:
    """Write plain data as YAML that reads back equal, keys in their order.

    Args:
        value: dicts with text keys, lists, texts, finite numbers, booleans and None.
        flow: on one line, with braces, and without a newline at the end.
    """
    if not flow:
        return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9, default_flow_style=True)
    return text.removesuffix("\n").removesuffix("\n...")
