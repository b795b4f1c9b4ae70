"""What a model is made of: how many parameters, and which saved tensors are buffers."""

from __future__ import annotations

from torch import nn


def count_parameters(model: nn.Module) -> int:
    """Count the numbers that training changes; a parameter shared by two modules counts once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def buffer_names(model: nn.Module) -> tuple[str, ...]:
    """Name the saved tensors that are not parameters, such as batch norm's ``norm1.running_mean``.

    They are averaged over clients and never pass through an optimizer.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return tuple(name for name in model.state_dict() if name not in parameters)
