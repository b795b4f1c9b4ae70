"""Where an algorithm differs from federated averaging: what it says of itself, and the methods that it overrides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedmomentum.strategies import records
from fedmomentum.trees import Tree


class Seams(Strategy):
    """The seams of :class:`~fedmomentum.strategies.fedavg.FedAvg`, each with what federated averaging does there."""

    client_method: ClassVar[str] = "local_sgd"
    """The client half that belongs to the algorithm, a name of ``fedmomentum.clients.methods.LOCAL_UPDATES``."""
    client_batch_norm: ClassVar[Literal["average", "local", "freeze"] | None] = None
    """What becomes of batch norm on clients (``ClientSpec.batch_norm``), where the algorithm settles it."""
    sends_models: ClassVar[bool] = True
    """Whether clients send where they have come to, so that ``old - mean`` is the mean of their updates."""
    needs_metrics: ClassVar[tuple[str, ...]] = ()
    """Finite numbers that each client has to report, for :meth:`client_mean`."""
    extra_weighting: ClassVar[Literal["examples", "uniform"]] = "examples"
    """How extra records of replies are averaged: by the weights of the replies, or every client alike."""
    single_replies: ClassVar[bool] = False
    """Whether a mean over a block of replies would mean nothing, as for compressed ones."""
    counts_replies: ClassVar[bool] = False
    """Whether the step depends on how many replies were used, which differential privacy would have to hide."""

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Give the next global parameters; federated averaging takes the mean.

        Args:
            old: the parameters that were sent (no buffers); tensors narrower than float32 come widened to it.
            mean: the weighted mean of those that came back.
            extras: record name -> mean of the extra arrays of the replies.
        """
        return mean

    def extra_to_clients(self, params: Mapping[str, Tensor]) -> Mapping[str, Tree]:
        """Give the records to send beside the model, by name; none here.

        Args:
            params: the global parameters, without buffers.
        """
        return {}

    def extra_in_replies(self, params: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """Give the records that each reply must hold beside the model, by name; none here.

        Args:
            params: the global parameters, without buffers.

        Returns:
            Trees with the names, shapes and dtypes that are expected; their values are not used.
        """
        return {}

    def reply_layout(self, sent: records.Views) -> records.Views:
        """Give the names, shapes and dtypes of what a reply holds in place of a model; here it is a model.

        Args:
            sent: the model that was sent, with its buffers.
        """
        return sent

    def decoded(self, reply: records.Views, sent: records.Views) -> records.Views:
        """Give what a reply holds in the layout of the model, so that it can be averaged; here it is the reply."""
        return reply

    def client_options(self) -> dict[str, Any]:
        """Give the options of the client half, those that the server half settles."""
        return {}

    def evaluated(self, arrays: ArrayRecord) -> ArrayRecord:
        """Give the model to judge in place of the current one; here it is the current one."""
        return arrays

    def server_state(self) -> dict[str, Any]:
        """Give what the algorithm carries from round to round: plain numbers, strings, tensors, and dicts of them."""
        return {}

    def load_server_state(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`server_state` gave."""
