"""Samplers: momentum with the noise that turns descent into draws from a posterior."""

from fedmomentum.samplers.adaptation import Adapted, window_adaptation
from fedmomentum.samplers.as_rule import as_rule, rekey
from fedmomentum.samplers.cyclical import Cyclical
from fedmomentum.samplers.draws import Draws, run
from fedmomentum.samplers.fields import Field, batched, traced
from fedmomentum.samplers.gradients import gradient_of, minibatch, noisy, potential_of
from fedmomentum.samplers.hmc import HMCInfo, hmc
from fedmomentum.samplers.kernel import Estimate, Gradient, Kernel, LangevinInfo, Potential
from fedmomentum.samplers.metric import Dense, Diagonal, Metric
from fedmomentum.samplers.schedules import polynomial
from fedmomentum.samplers.sghmc import sghmc
from fedmomentum.samplers.sgld import sgld
from fedmomentum.samplers.underdamped import underdamped_langevin

__all__ = [
    "Adapted",
    "Cyclical",
    "Dense",
    "Diagonal",
    "Draws",
    "Estimate",
    "Field",
    "Gradient",
    "HMCInfo",
    "Kernel",
    "LangevinInfo",
    "Metric",
    "Potential",
    "as_rule",
    "batched",
    "gradient_of",
    "hmc",
    "minibatch",
    "noisy",
    "polynomial",
    "potential_of",
    "rekey",
    "run",
    "sghmc",
    "sgld",
    "traced",
    "underdamped_langevin",
    "window_adaptation",
]
