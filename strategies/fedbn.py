"""Federated averaging of all but batch norm, which stays with each client. arXiv:2102.07623."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fedmomentum.strategies.fedavg import FedAvg


@dataclass(eq=False, repr=False)
class FedBN(FedAvg):
    """Federated averaging over clients that go on with weights and statistics of batch norm of their own.

    The server half is federated averaging. It still averages batch norm, where the paper's server knows nothing of it:
    for its own tests, and for clients that come for the first time. Judge it by what clients measure. In a Flower app
    the client half is ``ClientSpec(batch_norm="local")``.

    Reference: arXiv:2102.07623.
    """

    client_batch_norm: ClassVar[Literal["average", "local", "freeze"] | None] = "local"
