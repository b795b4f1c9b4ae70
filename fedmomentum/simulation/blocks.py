"""How the cohort of a round is cut into blocks: a function of the cohort alone, never of the workers."""

from __future__ import annotations

from collections.abc import Sequence

BLOCKS_A_ROUND = 8
"""Blocks that a round is cut into where they stay small enough: enough for four workers to balance their load."""
BLOCK_LIMIT = 32
"""Clients a block at most: past this, stacking gains nothing more and a retry costs more."""


def automatic_block_size(cohort: int) -> int:
    """Give the clients a block for a cohort of so many."""
    return max(1, min(BLOCK_LIMIT, -(-cohort // BLOCKS_A_ROUND)))


def cut(clients: Sequence[int], work: Sequence[float], block_size: int | None) -> list[tuple[int, ...]]:
    """Give the blocks of a cohort, those with the most work first.

    Clients of like work share a block, so stacked clients finish together; ties go by client number.
    """
    order = sorted(range(len(clients)), key=lambda i: (-work[i], clients[i]))
    size = block_size or automatic_block_size(len(clients))
    return [tuple(clients[i] for i in order[at : at + size]) for at in range(0, len(order), size)]
