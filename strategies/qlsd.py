"""Quantised Langevin stochastic dynamics: clients send compressed gradients, the server steps. arXiv:2106.00797."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from logging import WARNING
from typing import Any, ClassVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore import log
from torch import Tensor

from fedmomentum.protocol import MASK_KEY, REFERENCE, VALUES
from fedmomentum.samplers.ravel import ravel, unravel
from fedmomentum.samplers.sparse import filled, kept_count
from fedmomentum.strategies import records
from fedmomentum.strategies.broadcast import Broadcast
from fedmomentum.strategies.carried import Carrying
from fedmomentum.strategies.gradients import mean_gradient
from fedmomentum.strategies.sampling import server_noise
from fedmomentum.trees import Tree

_ANCHOR = "anchor"


@dataclass(eq=False, repr=False)
class QLSD(Carrying):
    """``x <- x - lr (sum_i p_i C(g_i(x)) + lambda x) + sqrt(2 lr T) xi`` with the clients' compressed gradients.

    ``C`` keeps a share of the coordinates, chosen at random (see :mod:`fedmomentum.samplers.sparse`): a reply is that
    many numbers and one key. QLSD* (``star``) compresses ``g_i(x) - g_i(x*)`` instead and adds the whole gradient at
    the reference point ``x*``, so that what clients disagree on is not compressed: its noise vanishes near ``x*``.

    Args:
        temperature: ``T``, at least 0; the target is ``exp(-f / T)``, and ``T = 1 / n`` its posterior.
        keep: share of the coordinates that clients send, in (0, 1]; the compressor's variance is ``1 / keep - 1``.
        star: QLSD* in place of QLSD.
        refresh: for ``star``, rounds between two reference points (the model of the moment); 0 keeps the first one.
        weight_decay: ``lambda`` of a Gaussian prior of precision ``lambda / T``, which the server adds uncompressed.
        gradient_timeout: seconds to wait for the gradients at a reference point; every connected client is asked.

    Raises:
        ValueError: an argument is out of range.

    ``lr`` is the clients' learning rate; they do not move, and their steps average the gradients of several
    minibatches. Reference: arXiv:2106.00797.
    """

    _: KW_ONLY
    temperature: float = 1.0
    keep: float = 0.1
    star: bool = False
    refresh: int = 0
    weight_decay: float = 0.0
    gradient_timeout: float | None = 3600.0

    client_method: ClassVar[str] = "qlsd"
    sends_models: ClassVar[bool] = False
    needs_metrics: ClassVar[tuple[str, ...]] = ("lr",)
    single_replies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must be in (0, 1], not {self.keep}")
        if not self.temperature >= 0 or self.refresh < 0 or not self.weight_decay >= 0:
            raise ValueError("temperature, refresh and weight_decay must be at least 0")

    def client_options(self) -> dict[str, Any]:
        """Give what is sent."""
        return {"keep": self.keep, "star": self.star}

    def extra_to_clients(self, params: Mapping[str, Tensor]) -> Mapping[str, Tree]:
        """Send the reference point."""
        return {REFERENCE: self.carried(REFERENCE, params)} if self.star else {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Make the messages, and first a new reference point where one is due.

        Raises:
            TimeoutError, ValueError: as for :class:`FedAvg`.
        """
        messages = super().configure_train(server_round, arrays, config, grid)
        now = self.round + 1
        due = _ANCHOR not in self._carried or (self.refresh > 0 and (now - 1) % self.refresh == 0)
        if not isinstance(messages, Broadcast) or not messages or not self.star or not due:
            return messages
        content = messages.content
        query = RecordDict({name: content[name] for name in (self.arrayrecord_key, self.configrecord_key)})
        found = mean_gradient(
            grid,
            query,
            sorted(grid.get_node_ids()),
            {name: x.numpy() for name, x in self._old.items()},
            weighted_by=self.weighted_by_key,
            uniform=self.weighting == "uniform",
            timeout=self.gradient_timeout,
        )
        if found is None:
            log(WARNING, "round %d: no client gave its gradient at the reference point; nobody trains", now)
            return []
        self.carry(_ANCHOR, found)
        self.carry(REFERENCE, {name: x.clone() for name, x in self._old.items()})
        content[REFERENCE] = records.record(self.carried(REFERENCE, self._old))  # shared by the messages of a round
        return messages

    def reply_layout(self, sent: records.Views) -> records.Views:
        """Expect numbers and a key in place of a model."""
        flat = ravel(self._old, leading=0)
        number = kept_count(len(flat), keep=self.keep)
        return {VALUES: flat[:number].numpy(), MASK_KEY: np.zeros((), np.int64)}

    def decoded(self, reply: records.Views, sent: records.Views) -> records.Views:
        """Give the gradient that was sent, in the layout of the model."""
        size = sum(x.numel() for x in self._old.values())
        key = torch.tensor(int(reply[MASK_KEY]))
        flat = filled(torch.from_numpy(np.array(reply[VALUES])), key, size, keep=self.keep)
        return {**sent, **{name: x.numpy() for name, x in unravel(flat, self._old, leading=0).items()}}

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Take one Langevin step; ``mean`` is that of the gradients."""
        lr = self.client_mean("lr")
        noise = server_noise(old, seed=self.seed, server_round=self.round)
        anchor = self.carried(_ANCHOR, old)
        heat = (2.0 * lr * self.temperature) ** 0.5
        return {
            name: x - lr * (mean[name] + anchor[name].to(x.dtype) + self.weight_decay * x) + heat * noise[name]
            for name, x in old.items()
        }
