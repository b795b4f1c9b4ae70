"""A network with dropout, for tests."""

from torch import nn


def dropout_network(*, input_shape, classes):
    width = input_shape[0] * input_shape[1] * input_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(width, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, classes))
