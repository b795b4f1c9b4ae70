"""Pictures of runs; matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from fedmomentum.report.curves import draw_metric
from fedmomentum.report.outcome import draw_outcome
from fedmomentum.report.partition import draw_partition

__all__ = ["draw_metric", "draw_outcome", "draw_partition"]
