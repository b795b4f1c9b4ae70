"""Label skew drawn from a Dirichlet distribution: Hsu's way, client by client, and the other way, class by class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedmomentum.data.arguments import real, whole
from fedmomentum.data.partition import IntArray, Partition, index_type, offsets_of
from fedmomentum.errors import UserError
from fedmomentum.streams import stream

Floats = NDArray[np.float64]

_BLOCK = 1 << 16
"""Examples drawn at a time: bounds both the memory and what is drawn anew when a class runs out."""


def log_dirichlet(rng: np.random.Generator, concentration: ArrayLike, size: tuple[int, ...]) -> Floats:
    """Draw ``log w`` with ``w / sum w ~ Dir(concentration)`` along the last axis.

        w_i ~ Gamma(a_i),   log w_i = log Gamma'(a_i + 1) + log(U) / a_i

    The logarithm of a Gamma variate survives concentrations at which the variate itself is 0 in floating point, and
    the weights of a subset, normalised, are the Dirichlet distribution of that subset.

    Args:
        rng: where randomness comes from.
        concentration: a_i > 0, broadcast against ``size``.
        size: shape of the result.
    """
    a = np.asarray(concentration, np.float64)
    uniform = 1.0 - rng.random(size)  # in (0, 1]: never the logarithm of 0
    return np.asarray(np.log(rng.standard_gamma(a + 1.0, size)) + np.log(uniform) / a)


def dirichlet(
    *, labels: IntArray, clients: int, seed: int, alpha: float, examples_per_client: int | None = None
) -> Partition:
    """Split as Hsu et al. did: every client draws its own class distribution and then equally many examples.

        q_c ~ Dir(alpha p),   the labels of client c ~ Categorical(q_c), one after another, without replacement

    p are the frequencies of the classes. When a class runs out, the q of all later draws are renormalised over the
    classes that are left: the last clients take what the others left, most of all where all examples are used. alpha is
    the sum of the concentrations: large is iid, small is one class a client.

    Not complete: ``N - C floor(N / C)`` examples are left out, so that clients are equal in size.

    Args:
        labels: ``[N]`` classes.
        clients: C.
        seed: of the stream "partition dirichlet".
        alpha: > 0.
        examples_per_client: at most ``floor(N / C)``, which is the default.

    Raises:
        UserError: alpha is not positive, or there are fewer examples than asked for.

    Source: arXiv:1909.06335, section 3.
    """
    here = "partition 'dirichlet'"
    alpha = real(here, "alpha", alpha, above=0)
    enough(here, len(labels), clients)
    most = len(labels) // clients
    size = (
        most
        if examples_per_client is None
        else whole(here, "examples_per_client", examples_per_client, least=1, most=most)
    )
    rng = stream(seed, "partition dirichlet")
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    small = np.uint8 if len(counts) <= 1 << 8 else np.uint16 if len(counts) <= 1 << 16 else np.int32

    drawn = np.empty((clients, size), small)
    left = counts.copy()
    rows = max(1, _BLOCK // size)
    for first in range(0, clients, rows):
        block = drawn[first : first + rows]
        log_q = log_dirichlet(rng, alpha * counts / len(labels), (len(block), len(counts)))
        _draw_labels(block, log_q, rng.random(block.shape), left)

    # The j-th place (in client order) that asks for class k gets the j-th example of class k in a random order.
    shuffled = rng.permutation(len(labels)).astype(index_type(len(labels)))
    by_class = shuffled[np.argsort(codes.astype(small)[shuffled], kind="stable")]
    used = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts) < np.repeat(counts - left, counts)
    order = np.empty_like(by_class, shape=drawn.size)
    order[np.argsort(drawn.reshape(-1), kind="stable")] = by_class[used]
    return Partition(order, offsets_of(np.full(clients, size)))


def _draw_labels(block: NDArray[Any], log_q: Floats, uniforms: Floats, left: NDArray[np.int64]) -> None:
    """Fill ``block`` ``[clients, size]`` row by row with classes, and count down ``left``, the stock of each class.

    Between two moments at which a class runs out, all draws are independent, so they are made at once: draw
    everything that is still missing, find the first place at which some stock becomes empty, keep what is before and
    at that place, close the class, and draw the rest anew. A uniform number behind that place has not been looked at,
    so it can be used again.
    """
    flat, size, done = block.reshape(-1), block.shape[1], 0
    while done < flat.size:
        row = done // size
        weights = np.where(left > 0, log_q[row:], -np.inf)
        cumulative = np.cumsum(np.exp(weights - weights.max(axis=1, keepdims=True)), axis=1)
        thresholds = uniforms[row:] * cumulative[:, -1:]
        labels = np.zeros(thresholds.shape, block.dtype)
        for k in range(len(left) - 1):
            labels += thresholds >= cumulative[:, k, None]
        rest = labels.reshape(-1)[done - row * size :]
        stop = len(rest)
        runs_out = (left > 0) & (np.bincount(rest, minlength=len(left)) >= left)
        for k in np.flatnonzero(runs_out).tolist():
            stop = min(stop, int(np.flatnonzero(rest == k)[left[k] - 1]) + 1)
        flat[done : done + stop] = rest[:stop]
        left -= np.bincount(rest[:stop], minlength=len(left))
        done += stop


def dirichlet_per_class(
    *, labels: IntArray, clients: int, seed: int, alpha: float, balance: bool = False, min_examples: int = 1
) -> Partition:
    """Split every class over the clients by proportions of its own: sizes and label distributions both vary.

        for each class k:   p_k ~ Dir(alpha, ..., alpha) over C clients,   client c gets the part p_kc of the class

    Complete. Cuts lie at ``floor(n_k cumsum(p_k))``. flwr-datasets means this by "Dirichlet", and draws everything
    anew (ten times at most) until every client has enough; here clients below ``min_examples`` get random examples of
    the largest clients, which always ends and changes nothing where nobody is short.

    Args:
        labels: ``[N]`` classes.
        clients: C.
        seed: of the stream "partition dirichlet per class".
        alpha: concentration of each client, > 0.
        balance: a client that has more than N / C examples gets none of the later classes (p_k is renormalised).
        min_examples: a client has this many at least; with 0 some clients may be empty.

    Raises:
        UserError: alpha is not positive, or there are too few examples for ``min_examples`` each.

    Source: arXiv:1905.12022; the balance, arXiv:2102.02079.
    """
    here = "partition 'dirichlet_per_class'"
    alpha = real(here, "alpha", alpha, above=0)
    least = whole(here, "min_examples", min_examples)
    enough(here, len(labels), clients, least)
    rng = stream(seed, "partition dirichlet per class")
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(codes[shuffled], kind="stable")]
    sizes = np.zeros(clients, np.int64)
    owners = np.empty(len(labels), index_type(clients))
    start = 0
    for count in counts:
        log_p = log_dirichlet(rng, alpha, (clients,))
        if balance:
            log_p[sizes * clients > len(labels)] = -np.inf
        parts = np.diff(apportion(log_p, int(count)), prepend=0)
        owners[by_class[start : start + count]] = np.repeat(np.arange(clients), parts)
        sizes += parts
        start += count
    _top_up(owners, sizes, least, rng)
    return Partition.from_owners(owners, clients)


def apportion(log_weights: Floats, total: int) -> NDArray[np.int64]:
    """Give ``floor(total cumsum(w / sum w))``, the ends of C parts of ``total`` things; the last end is ``total``."""
    cumulative = np.cumsum(np.exp(log_weights - log_weights.max()))
    ends: NDArray[np.int64] = np.floor(cumulative * (total / cumulative[-1])).astype(np.int64)
    # Clients behind the last positive weight get nothing, so each end from there on is the total itself.
    ends[cumulative == cumulative[-1]] = total
    return ends


def enough(here: str, examples: int, clients: int, least: int = 1) -> None:
    """Refuse a request for more examples than there are, ``least`` for each client."""
    if least * clients > examples:
        each = "one" if least == 1 else str(least)
        raise UserError(
            f"{here}: {clients} clients with {each} each at least need {least * clients} examples of {examples}; "
            f"at most {examples // least} clients can be made"
        )


def _top_up(owners: IntArray, sizes: NDArray[np.int64], least: int, rng: np.random.Generator) -> None:
    """Hand random examples of the largest clients to those with fewer than ``least``, in place in ``owners``."""
    lacking = np.maximum(least - sizes, 0)
    needed = int(lacking.sum())
    if needed == 0:
        return
    low, high = least, int(sizes.max())  # the highest level such that cutting all clients down to it frees enough
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.maximum(sizes - middle, 0).sum() >= needed else (low, middle - 1)
    given = np.maximum(sizes - low, 0)
    surplus = int(given.sum()) - needed  # less than the number of givers: each keeps at most one back
    given[rng.permutation(np.flatnonzero(given))[:surplus]] -= 1

    shuffled = rng.permutation(len(owners))
    by_client = shuffled[np.argsort(owners[shuffled], kind="stable")]
    rank = np.arange(len(owners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    freed = rng.permutation(by_client[rank < np.repeat(given, sizes)])
    owners[freed] = np.repeat(np.arange(len(sizes)), lacking)
