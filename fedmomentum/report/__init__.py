"""Pictures of runs; matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from fedmomentum.report.curves import draw_metric
from fedmomentum.report.outcome import draw_outcome
from fedmomentum.report.partition import draw_partition
from fedmomentum.report.posterior import draw_posterior
from fedmomentum.report.probes import draw_probes
from fedmomentum.report.reliability import draw_reliability

__all__ = ["draw_metric", "draw_outcome", "draw_partition", "draw_posterior", "draw_probes", "draw_reliability"]
