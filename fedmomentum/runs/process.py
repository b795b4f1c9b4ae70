"""Which process is at a run, and whether it still is: numbers are given out again, and soonest in containers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def this_process() -> dict[str, object]:
    """Give the facts of ``status.json`` by which this process is known again: its number, and when it began."""
    return {"pid": os.getpid(), "pid_began": _began(os.getpid())}


def at_work(status: Mapping[str, Any]) -> bool:
    """Say whether the process that a status names is on this machine and has not ended."""
    pid, began = status.get("pid"), status.get("pid_began")
    if not isinstance(pid, int) or not alive(pid):
        return False
    now = _began(pid)
    return began is None or now is None or began == now


def alive(pid: object) -> bool:
    """Say whether a process of this number is there; one that has ended and was not waited for is not."""
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:  # someone else's, but there
        return True
    except (OSError, OverflowError):
        return False
    return (_stat(pid) or ["?"])[0] not in ("Z", "X")


def _began(pid: int) -> str | None:
    """Give the boot of this machine and the ticks since then at which a process began; None where nobody tells."""
    facts = _stat(pid)
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return f"{boot} {facts[19]}" if facts and len(facts) > 19 else None


def _stat(pid: int) -> list[str] | None:
    """Give what Linux says of a process, from its state on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # the name before it may hold anything
