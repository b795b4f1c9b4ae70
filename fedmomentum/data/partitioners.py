"""Partitioners by name, and those that need no distribution over labels: iid, shards, quantity, natural."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedmomentum.data.arguments import check_options, choose, real, whole
from fedmomentum.data.dirichlet import apportion, dirichlet, dirichlet_per_class, enough, log_dirichlet
from fedmomentum.data.partition import IntArray, Partition, index_type, offsets_of
from fedmomentum.errors import UserError
from fedmomentum.streams import stream


def iid(*, examples: int, clients: int, seed: int) -> Partition:
    """Deal examples out at random; sizes differ by one at most. Complete.

    Args:
        examples: N.
        clients: C.
        seed: of the stream "partition iid".

    Raises:
        UserError: there are more clients than examples.
    """
    enough("partition 'iid'", examples, clients)
    return Partition(_shuffled(examples, stream(seed, "partition iid")), _even(examples, clients))


def shards(*, labels: IntArray, clients: int, seed: int, shards_per_client: int = 2) -> Partition:
    """Sort examples by label, cut them into ``C shards_per_client`` shards, give every client that many at random.

    Complete; shards differ in size by one at most. Where every class fills whole shards, as in the paper's 200 shards
    of 300, a client has at most ``shards_per_client`` classes; a shard that lies across a border has two.

    Args:
        labels: ``[N]`` classes.
        clients: C.
        seed: of the stream "partition shards".
        shards_per_client: >= 1.

    Raises:
        UserError: there are more shards than examples.

    Source: arXiv:1602.05629, section 3.
    """
    each = whole("partition 'shards'", "shards_per_client", shards_per_client, least=1)
    enough("partition 'shards'", len(labels), clients, each)
    rng = stream(seed, "partition shards")
    shuffled = _shuffled(len(labels), rng)
    by_label = shuffled[np.argsort(np.asarray(labels)[shuffled], kind="stable")]
    bounds = _even(len(labels), clients * each)
    holder = np.empty(clients * each, index_type(clients))
    holder[rng.permutation(clients * each)] = np.repeat(np.arange(clients), each)
    owners = np.empty_like(holder, shape=len(labels))
    owners[by_label] = np.repeat(holder, np.diff(bounds))
    return Partition.from_owners(owners, clients)


def quantity(
    *,
    examples: int,
    clients: int,
    seed: int,
    alpha: float | None = None,
    sigma: float | None = None,
    min_examples: int = 1,
) -> Partition:
    """Deal examples out at random in unequal numbers: label distributions are iid, sizes are not. Complete.

        size_c = min_examples + (N - C min_examples) w_c / sum w
        w ~ Dir(alpha, ..., alpha)   or   w_c ~ LogNormal(0, sigma)

    Args:
        examples: N.
        clients: C.
        seed: of the stream "partition quantity".
        alpha: concentration of the Dirichlet distribution, > 0; small is unequal. Give this one or sigma.
        sigma: standard deviation of the logarithm of sizes, >= 0; large is unequal.
        min_examples: what every client has at least.

    Raises:
        UserError: both or neither of alpha and sigma are given, one is out of range, or there are too few examples.

    Source: arXiv:2102.02079, section 4 (quantity skew).
    """
    here = "partition 'quantity'"
    least = whole(here, "min_examples", min_examples)
    enough(here, examples, clients, least)
    rng = stream(seed, "partition quantity")
    if (alpha is None) == (sigma is None):
        raise UserError(f"{here}: give alpha (Dirichlet sizes) or sigma (log-normal sizes), one of the two")
    if alpha is not None:
        log_w = log_dirichlet(rng, real(here, "alpha", alpha, above=0), (clients,))
    else:
        log_w = real(here, "sigma", sigma, least=0) * rng.standard_normal(clients)
    sizes = least + np.diff(apportion(log_w, examples - clients * least), prepend=0)
    return Partition(_shuffled(examples, rng), offsets_of(sizes))


def natural(*, groups: IntArray, seed: int, clients: int | None = None) -> Partition:
    """Give every natural client (writer, file, device) its own examples; clients are in the order of their groups.

    Complete if ``clients`` is None or the number of groups; with fewer, that many groups are chosen at random and the
    rest is left out.

    Args:
        groups: ``[N]`` the natural client of each example.
        seed: of the stream "partition natural".
        clients: C, at most the number of groups.

    Raises:
        UserError: there are fewer groups than clients.
    """
    names, owners = np.unique(groups, return_inverse=True)
    if clients is None or clients == len(names):
        return Partition.from_owners(owners, len(names))
    if clients > len(names):
        raise UserError(f"partition 'natural': {clients} clients, but the data set has {len(names)} natural ones")
    chosen = np.sort(stream(seed, "partition natural").choice(len(names), clients, replace=False, shuffle=False))
    number = np.full(len(names), -1, np.int64)
    number[chosen] = np.arange(clients)
    return Partition.from_owners(number[owners], clients)


PARTITIONERS: dict[str, Callable[..., Partition]] = {
    "dirichlet": dirichlet,
    "dirichlet_per_class": dirichlet_per_class,
    "iid": iid,
    "natural": natural,
    "quantity": quantity,
    "shards": shards,
}
"""Name -> function of keyword-only arguments: of ``labels``, ``groups``, ``examples``, ``clients`` and ``seed`` it is
handed those that it names, and its options besides. Add your own: ``PARTITIONERS["mine"] = mine``."""

_GIVEN = ("labels", "groups", "examples", "clients", "seed")


def partition(
    name: str,
    *,
    labels: ArrayLike,
    groups: ArrayLike | None = None,
    clients: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Partition:
    """Split examples over clients with the partitioner called ``name`` in ``PARTITIONERS``.

    Example:
        >>> partition("dirichlet", labels=np.arange(1000) % 10, clients=100, alpha=0.3, seed=1).indices(7).shape
        (10,)

    Args:
        name: of the partitioner.
        labels: ``[N]`` classes, or ``[N, T]`` for sequences (which only iid, quantity and natural can split).
        groups: ``[N]`` natural clients, for "natural".
        clients: C; may be None for "natural".
        seed: equal seeds give equal partitions.
        options: what the partitioner takes.

    Raises:
        UserError: no such partitioner, a bad option, or a request that cannot be met.
    """
    function = choose("partition", PARTITIONERS, name)
    check_options("partition", name, function, options, supplied=_GIVEN)
    wanted = inspect.signature(function).parameters
    here = f"partition '{name}'"
    labels = np.asarray(labels)
    if clients is not None:
        clients = whole(here, "clients", clients, least=1)
    elif "clients" in wanted and wanted["clients"].default is inspect.Parameter.empty:
        raise UserError(f"{here} needs the number of clients")
    if "labels" in wanted and labels.ndim != 1:
        raise UserError(
            f"{here} needs one label an example, but labels have shape {list(labels.shape)}; "
            "sequences can be split by iid, quantity or natural"
        )
    if "groups" in wanted:
        if groups is None:
            raise UserError(f"{here}: the data set names no natural clients (it has no groups); use another partition")
        groups = np.asarray(groups)
        if groups.shape != labels.shape[:1]:
            raise UserError(f"{here}: groups has shape {list(groups.shape)}, but there are {len(labels)} examples")
    given = {"labels": labels, "groups": groups, "examples": len(labels), "clients": clients, "seed": seed}
    return function(**{key: value for key, value in given.items() if key in wanted}, **options)


def _shuffled(size: int, rng: np.random.Generator) -> IntArray:
    order = np.arange(size, dtype=index_type(size))
    rng.shuffle(order)
    return order


def _even(total: int, parts: int) -> IntArray:
    """Give ``parts + 1`` bounds that cut ``total`` things into parts whose sizes differ by one at most."""
    bounds = np.arange(parts + 1, dtype=np.int64) * total // parts
    return bounds.astype(index_type(total), copy=False)
