"""How the cohort of a round is cut into blocks: a function of the cohort alone, never of the workers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLOCKS_A_ROUND, BLOCK_LIMIT = 8, 32
"""Blocks that a round is cut into, and clients a block at most, where clients train one after another: small blocks
balance the load of workers, and lose little when one is run again."""
STACKED_BLOCKS_A_ROUND, STACKED_BLOCK_LIMIT = 2, 64
"""The same where clients train stacked: each operation serves a whole block, so larger blocks cost less a client."""


def automatic_block_size(cohort: int, *, stacked: bool = False) -> int:
    """Give the clients a block for a cohort of so many."""
    blocks, limit = (STACKED_BLOCKS_A_ROUND, STACKED_BLOCK_LIMIT) if stacked else (BLOCKS_A_ROUND, BLOCK_LIMIT)
    return max(1, min(limit, -(-cohort // blocks)))


def cut(
    clients: Sequence[int] | NDArray[np.integer], work: Sequence[float] | NDArray[np.floating], size: int
) -> list[tuple[int, ...]]:
    """Give the blocks of a cohort, those with the most work first.

    Clients of like work share a block, so stacked clients finish together; ties go by client number.
    """
    numbers = np.asarray(clients, np.int64)
    ordered = numbers[np.lexsort((numbers, -np.asarray(work, np.float64)))].tolist()
    return [tuple(ordered[at : at + size]) for at in range(0, len(ordered), size)]
