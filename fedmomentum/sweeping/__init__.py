"""Sweeps: many runs of one scenario, several at a time, that can be stopped and gone on with.

A sweep is a run folder whose arms are run folders themselves:

```
<out>/<name>/sweep-<hash8>/
    scenario.yaml, resolved.yaml, provenance.json      of the sweep as a whole
    status.json                                        "kind": "sweep", point -> folder
    points.csv                                         a row a point: settings, status, last and best metrics
    plots/                                             metrics of all points, seeds as bands
    points/<point>-<hash8>/                            an ordinary run folder, with checkpoints of its own
```

Its name is a function of the scenario, so the same command finds it again; a point that finished under the hash that
is wanted is skipped, one that began goes on from its checkpoint. Points run in processes of their own, also with one
job: each takes one point after another, so that the imports and the Ray actors are paid for once; one that dies costs
its point and no other; and there is one way to run a point whatever the number of jobs. What a point gave is read from
its folder, never from the process.
"""

from __future__ import annotations

from fedmomentum.sweeping.flags import sweep_overrides
from fedmomentum.sweeping.sweep import PointEnd, is_sweep, resume_sweep, sweep

__all__ = ["PointEnd", "is_sweep", "resume_sweep", "sweep", "sweep_overrides"]
