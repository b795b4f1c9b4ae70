"""Federated learning simulation about momentum.

``import fedmomentum as fm`` is cheap: torch, ray and flwr load when something that needs them is used.
"""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

# In a checkout `strategies/`, `clients/` and `scenarios/` stand beside this package, not inside it; a wheel holds
# them inside, and then this does nothing.
_root = Path(__file__).resolve().parents[1]
if not (Path(__file__).parent / "strategies").is_dir() and (_root / "strategies").is_dir():
    __path__.append(str(_root))


def __getattr__(name: str) -> object:
    """Load ``fm.run``, ``fm.resume``, ``fm.sweep``, ``fm.load_run`` and ``fm.Result`` when they are first asked for."""
    if name in ("run", "resume", "Result"):
        from fedmomentum import api

        return getattr(api, name)
    if name == "sweep":
        from fedmomentum import sweeping

        return sweeping.sweep
    if name == "load_run":
        from fedmomentum.runs import load_run

        return load_run
    raise AttributeError(f"module 'fedmomentum' has no attribute '{name}'")
