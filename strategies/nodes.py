"""Finding the nodes of a round: a wait that ends, and a choice that is checked."""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from logging import INFO, WARNING

from flwr.serverapp import Grid
from flwr.supercore import log

from fedmomentum.strategies.cohort import Cohort, in_order


def wait_for_nodes(grid: Grid, needed: int, timeout: float, *, poll: float = 1.0) -> Sequence[int]:
    """Give the connected nodes, sorted, as soon as there are enough of them.

    A grid that numbers its nodes in a range is taken at its word: a million registered clients are never a list.

    Args:
        grid: where nodes connect.
        needed: how many there must be.
        timeout: seconds to wait at the most.
        poll: seconds between two looks.

    Raises:
        TimeoutError: there are still too few; the message says how many there are and how many it takes.
    """
    deadline = time.monotonic() + timeout
    waiting = False
    while len(nodes := in_order(grid.get_node_ids())) < needed:
        left = deadline - time.monotonic()
        if left <= 0.0:
            raise TimeoutError(
                f"{len(nodes)} nodes are connected and {needed} are needed; waited {timeout:g} s (node_timeout). "
                "Start more nodes, or lower min_train_nodes, min_evaluate_nodes or min_available_nodes"
            )
        if not waiting:
            log(INFO, "waiting up to %g s for nodes: %d connected, %d needed", timeout, len(nodes), needed)
            waiting = True
        time.sleep(min(poll, left))
    return nodes


def choose(cohort: Cohort, server_round: int, nodes: Sequence[int]) -> Sequence[int]:
    """Ask a cohort for the nodes of a round and hold it to its contract; all nodes of a range stay a range.

    Raises:
        ValueError: it chose a node that is not connected, or one twice.
    """
    chosen = list(map(int, cohort.choose(server_round, nodes)))
    if isinstance(nodes, range) and chosen and chosen == list(nodes[: len(chosen) + 1]):
        return nodes
    known: Container[int] = nodes if isinstance(nodes, range) else set(nodes)
    strangers = [node for node in chosen if node not in known]
    if strangers:
        raise ValueError(f"round {server_round}: the cohort chose node {min(strangers)}, which is not connected")
    if len(set(chosen)) < len(chosen):
        twice = next(node for i, node in enumerate(chosen) if node in chosen[:i])
        raise ValueError(f"round {server_round}: the cohort chose node {twice} twice")
    if not chosen:
        log(WARNING, "round %d: the cohort is empty", server_round)
    return chosen
