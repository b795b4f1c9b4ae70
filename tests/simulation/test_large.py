"""Large models: what a run holds in memory, in sizes of the model."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CODE = """
import json
from benchmarks.scale_parts import models, worker
found = [worker(0, "sgd"), worker(16, "sgd"), worker(16, "heavy_ball")]
print(json.dumps(found + [models(layers, 0, 8) for layers in (0, 16)]))
"""
"""Tiny models first, for what the process holds anyway, then ones of 17 million parameters, of which a layer is a
sixteenth; each of eight clients is a block of its own. A run has a velocity."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@pytest.fixture(scope="module")
def found():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@linux
def test_a_worker_holds_the_weights_and_a_velocity_and_no_gradient_no_sum_and_no_model_that_it_was_sent(found):
    """Beside these the layer at work and the part of the sums at work."""
    tiny, *large = found[:3]
    sgd, ball = ((run["worker"] - tiny["worker"]) / run["model_bytes"] for run in large)
    assert 0.9 < sgd < 1.8, sgd
    assert 1.9 < ball < 2.8, ball


@linux
def test_a_round_holds_the_model_the_new_one_and_what_a_worker_holds(found):
    """It was fourteen models once."""
    tiny, large = found[3:]
    held = (large["driver"] - tiny["driver"]) / large["model_bytes"]
    assert 2.9 < held < 4.8, held
    assert large["moved_in_models"] == 2.0
