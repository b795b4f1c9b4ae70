"""Character models: the next symbol of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import Tensor, nn

from fedmomentum.errors import UserError

Output: TypeAlias = Literal["every", "last"]
"""Which steps a model predicts at: ``every`` one ``[B, T, V]``, or the ``last`` one alone ``[B, V]``."""


class CharacterModel(nn.Module):
    """Embedding, recurrent layers, one dense layer to the vocabulary."""

    def __init__(self, embedding: nn.Embedding, recurrent: nn.GRU | nn.LSTM, fc: nn.Linear, output: Output) -> None:
        """Put the three parts together."""
        super().__init__()
        self.embedding, self.recurrent, self.fc, self.output = embedding, recurrent, fc, output

    def forward(self, tokens: Tensor) -> Tensor:
        """Map symbols ``[B, T]`` (int64) to logits ``[B, T, V]`` or ``[B, V]``."""
        hidden, _ = self.recurrent(self.embedding(tokens))
        logits: Tensor = self.fc(hidden if self.output == "every" else hidden[:, -1])
        return logits


def gru(
    *,
    input_shape: Sequence[int],
    classes: int,
    embedding: int = 8,
    hidden: int = 256,
    layers: int = 2,
    output: Output = "every",
) -> nn.Module:
    """Give a character model of gated recurrent units; its arguments are those of :func:`lstm`."""
    _check("gru", input_shape, embedding=embedding, hidden=hidden, layers=layers, output=output)
    recurrent = nn.GRU(embedding, hidden, num_layers=layers, batch_first=True)
    return CharacterModel(nn.Embedding(classes, embedding), recurrent, nn.Linear(hidden, classes), output)


def lstm(
    *,
    input_shape: Sequence[int],
    classes: int,
    embedding: int = 8,
    hidden: int = 256,
    layers: int = 2,
    output: Output = "every",
) -> nn.Module:
    """Give the character model for Shakespeare of Reddi et al. (arXiv:2003.00295, appendix).

    822,570 parameters with 90 symbols. The paper counts 820,522: torch gives each recurrent layer two bias vectors
    where the paper's has one; they only ever appear as a sum.

    Args:
        input_shape: ``[T]``, symbols of a sequence (80 in the paper); the model takes any length.
        classes: size of the vocabulary.
        embedding: numbers that stand for a symbol.
        hidden: units of a recurrent layer.
        layers: recurrent layers.
        output: ``every`` step's prediction or the ``last`` one's.

    Raises:
        UserError: examples are no sequences, or an option is out of its range.
    """
    _check("lstm", input_shape, embedding=embedding, hidden=hidden, layers=layers, output=output)
    recurrent = nn.LSTM(embedding, hidden, num_layers=layers, batch_first=True)
    return CharacterModel(nn.Embedding(classes, embedding), recurrent, nn.Linear(hidden, classes), output)


def _check(model: str, input_shape: Sequence[int], *, output: str, **sizes: int) -> None:
    if len(input_shape) != 1:
        raise UserError(f"model '{model}' wants sequences of symbols [T]; the data's examples have {list(input_shape)}")
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"model '{model}': {name} must be a positive number, not {size!r}")
    if output not in ("every", "last"):
        raise UserError(f"model '{model}': output must be 'every' or 'last', not {output!r}")
