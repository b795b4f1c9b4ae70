"""Large models: what a run holds in memory, in sizes of the model."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CODE = """
import json
from benchmarks.scale_parts import models
print(json.dumps([models(layers, 0, 8) for layers in (0, 16)]))
"""
"""A tiny model first, for what the process holds anyway, then one of 17 million parameters; each of eight clients is a
block of its own, and all have a velocity."""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_round_holds_the_model_the_clients_weights_their_velocity_and_one_sum():
    """Four models, the layer at work and what the allocator cannot give back; it was fourteen once."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    tiny, large = json.loads(done.stdout.splitlines()[-1])
    held = (large["driver"] - tiny["driver"]) / large["model_bytes"]
    assert 3.0 < held < 5.7, held
    assert large["moved_in_models"] == 2.0
