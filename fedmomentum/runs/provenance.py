"""Where a result came from: versions, code, machine, command, data. Never who: no user name, no environment."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

PACKAGES = ("fedmomentum", "flwr", "torch", "ray", "numpy", "scipy", "scikit-learn", "safetensors")


def provenance(*, data: Mapping[str, str] | None = None, argv: Sequence[str] | None = None) -> dict[str, object]:
    """Collect what someone needs to tell why two runs differ, in a few milliseconds and without importing anything big.

    Args:
        data: checksums of the data sets by name, where the caller has them.
        argv: the command line; by default this process's.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(sys.argv if argv is None else argv),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "git": _checkouts(),
        "machine": {
            "system": platform.platform(),
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_bytes": _memory(),
            "gpus": _gpus(),
        },
        "data": dict(data or {}),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        if name != "fedmomentum":
            return None
        from fedmomentum import __version__  # used from a checkout that is not installed

        return __version__


def _command(argv: Sequence[str]) -> list[str]:
    """Give the command line without the places that name a person: the program's folder and the home folder."""
    home = str(Path.home())
    program = [Path(argv[0]).name] if argv else []
    return program + [word.replace(home, "~") if len(home) > 1 else word for word in argv[1:]]


def _checkouts() -> dict[str, dict[str, object]]:
    """Give the commit of the checkout that holds this package and of the one we stand in, where there are such."""
    found: dict[str, dict[str, object]] = {}
    for name, place in (("fedmomentum", Path(__file__).resolve().parents[2]), ("working_directory", Path.cwd())):
        if name == "fedmomentum" and not (place / ".git").exists():
            continue  # installed: a site-packages inside someone's checkout says nothing about us
        commit = _git(place, "rev-parse", "HEAD")
        if commit:
            changes = _git(place, "status", "--porcelain", "--untracked-files=no")
            found[name] = {"commit": commit, "dirty": None if changes is None else bool(changes)}
    return found


def _git(place: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(place), *words], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _gpus() -> list[str]:
    """Name the GPUs, if torch is loaded already: asking must not cost a second of import."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
