"""Small networks by name, and the loss that they are trained on.

Example:
    >>> model = build("mlp", input_shape=(1, 28, 28), classes=10, seed=0, hidden=[200, 200])
    >>> count_parameters(model)
    199210
"""

from fedmomentum.models.inspect import buffer_names, count_parameters
from fedmomentum.models.objective import correct, losses
from fedmomentum.models.registry import MODELS, build

__all__ = ["MODELS", "buffer_names", "build", "correct", "count_parameters", "losses"]
