"""What the measurements of clients are called in pictures, and where their scales have a landmark."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """One measured column.

    Args:
        title: in words.
        unit: of its axis; empty for a pure number.
        landmark: a value that divides the scale in two, with what it means; None where there is none.
        log: whether it spans orders of magnitude.
    """

    title: str
    unit: str = ""
    landmark: tuple[float, str] | None = None
    log: bool = False


QUANTITIES: dict[str, Quantity] = {
    "probe_curvature": Quantity("Curvature, sharpest direction", "loss / parameter²", log=True),
    "probe_curvature_along": Quantity("Curvature along the gradient", "loss / parameter²", (0.0, "flat")),
    "probe_damping": Quantity("Damping ratio", "", (1.0, "critical"), log=True),
    "probe_period": Quantity("Period of the ringing", "steps", log=True),
    "probe_critical_momentum": Quantity("Critical momentum"),
    "probe_stability": Quantity("Stability margin", "", (1.0, "edge of stability"), log=True),
    "probe_stable_lr": Quantity("Largest stable learning rate", "", log=True),
    "momentum": Quantity("Momentum that clients took"),
    "lr": Quantity("Learning rate that clients took", log=True),
    "probe_noise": Quantity("Gradient noise", "(loss / parameter)²", log=True),
    "probe_signal": Quantity("Gradient signal", "(loss / parameter)²", (0.0, "none to be seen")),
    "probe_noise_scale": Quantity("Noise scale", "examples", log=True),
    "probe_noise_gain": Quantity("Noise gain of the velocity"),
    "probe_temperature": Quantity("Temperature", "loss", log=True),
    "probe_batch_norm_lag": Quantity("Lag of batch norm", "steps"),
    "probe_batch_norm_gap": Quantity("Statistics off the truth", "relative", log=True),
    "probe_irreversibility": Quantity("Irreversibility of the path"),
    "probe_irreversibility_floor": Quantity("The same by chance"),
    "probe_drift": Quantity("Drift of a client", "parameter", log=True),
    "probe_coherence": Quantity("Coherence of the updates", "", (1.0, "clients agree"), log=True),
    "probe_sampling_noise": Quantity("Sampling noise of the update", "parameter²", log=True),
    "probe_gradients": Quantity("Cost of the probes", "gradients of an example"),
    "probe_curvature_smallest": Quantity("Curvature, smallest", "loss / parameter²", (0.0, "saddle below")),
    "probe_curvature_error": Quantity("Uncertainty of the sharpest", "loss / parameter²", log=True),
    "probe_seconds": Quantity("Time of the probes", "s"),
}
"""Column -> what it is, in the order in which it is drawn."""

NOT_DRAWN = ("probe_seconds", "probe_curvature_error", "probe_curvature_smallest", "probe_irreversibility_floor")
"""Columns that the picture of a run leaves to its tables."""


def title_of(key: str) -> str:
    """Give what a column is called, with its unit."""
    known = QUANTITIES.get(key)
    if known is None or not key.startswith("probe_"):
        return key.replace("_", " ")
    return f"{known.title} ({known.unit})" if known.unit else known.title
