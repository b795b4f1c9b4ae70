"""A scenario that takes a tenth of a second."""

from __future__ import annotations

import torch
import yaml
from safetensors.torch import load_file


def write(folder, name="scenario.yaml", **changes):
    """Write the scenario with some blocks replaced; give its path."""
    scenario = {
        "kind": "federated",
        "name": "tiny",
        "rounds": 4,
        "data": {"name": "digits", "partition": {"name": "dirichlet", "clients": 12, "alpha": 0.3}},
        "model": {"name": "mlp", "hidden": [16]},
        "client": {"optimizer": {"name": "heavy_ball", "lr": 0.05}, "batch_size": 20},
        "participation": {"name": "uniform", "count": 6},
        "strategy": {"name": "fedavgm", "server_momentum": 0.5},
        "engine": {"name": "inline"},
        **changes,
    }
    path = folder / name
    path.write_text(yaml.safe_dump(scenario, sort_keys=False))
    return path


def same_models(a, b):
    """Tell whether two run folders hold the same model, bit for bit."""
    left, right = (load_file(folder / "model.safetensors") for folder in (a, b))
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)
