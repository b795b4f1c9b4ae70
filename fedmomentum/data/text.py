"""A user's text file as a data set for a model of characters: each character predicts the next."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedmomentum.data.arguments import real, whole
from fedmomentum.data.dataset import Dataset
from fedmomentum.errors import UserError

_HERE = "data set 'text'"


def text(*, path: str | Path, sequence_length: int = 80, groups: int = 10, test_fraction: float = 0.2) -> Dataset:
    """Give a text as sequences of characters, ``x[i, t]`` the character and ``y[i, t]`` the one that follows it.

    The text is cut into sequences that do not overlap, and these into contiguous chunks of equal number (up to one):
    the natural clients. The last sequences of each chunk are held out; together they are the central test set. Tokens
    number the distinct characters of the text in the order of their code points, so ``classes`` is their count. The
    characters after the last whole sequence are not used.

    Args:
        path: a UTF-8 text file.
        sequence_length: characters a sequence, T.
        groups: how many chunks.
        test_fraction: part of each chunk held out (at least one sequence, and at least one stays), in (0, 1).

    Returns:
        A data set with x and y ``[N, T]`` int64.

    Raises:
        UserError: the file cannot be read, or is too short for two sequences a chunk.
    """
    length = whole(_HERE, "sequence_length", sequence_length, least=1)
    chunks = whole(_HERE, "groups", groups, least=1)
    fraction = real(_HERE, "test_fraction", test_fraction, above=0, below=1)
    place = Path(path).expanduser()
    try:
        content = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{place}: cannot be read as a UTF-8 text: {error}") from error
    sequences = max(len(content) - 1, 0) // length
    if sequences < 2 * chunks:
        raise UserError(
            f"{place}: {len(content)} characters make {sequences} sequences of {length}; "
            f"{chunks} groups need two each (one to train, one to test): {2 * chunks * length + 1} characters"
        )
    points = np.frombuffer(content.encode("utf-32-le"), np.uint32)
    alphabet, tokens = np.unique(points, return_inverse=True)
    tokens = tokens.astype(np.int64)
    x = tokens[: sequences * length].reshape(sequences, length)
    y = tokens[1 : sequences * length + 1].reshape(sequences, length)

    bounds = np.arange(chunks + 1) * sequences // chunks
    sizes = np.diff(bounds)
    tests = np.clip(np.rint(fraction * sizes).astype(np.int64), 1, sizes - 1)
    owner = np.repeat(np.arange(chunks), sizes)
    is_test = np.arange(sequences) >= (bounds[1:] - tests)[owner]
    return Dataset(
        f"text:{place.name}", x[~is_test], y[~is_test], x[is_test], y[is_test], len(alphabet), owner[~is_test]
    )
