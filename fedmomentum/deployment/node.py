"""What a SuperNode's config says, and which data that is: its own, or a part of the scenario's for a rehearsal.

The keys of the node config are ``data`` (a file or folder, see :func:`fedmomentum.data.own.read_own`), ``partition-id``
and ``num-partitions`` as in any Flower app, ``report-counts`` (``false`` keeps the number of examples secret), and
``state`` (a folder for what the client keeps between rounds, see :mod:`fedmomentum.deployment.memory`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedmomentum.build_data import build_data
from fedmomentum.data import FederatedData
from fedmomentum.data.own import Wanted, own_data, read_own
from fedmomentum.deployment.settings import Settings
from fedmomentum.deployment.terms import Answer, Terms
from fedmomentum.errors import UserError
from fedmomentum.scenario import FederatedScenario


class Node:
    """One SuperNode, for one message.

    Args:
        config: its node config.
        run_config: of the run.
        terms: what the server told it.

    Raises:
        UserError: a value of the config is not of its kind, or the scenario of the run config has no such arm.
    """

    def __init__(self, config: Mapping[str, Any], run_config: Mapping[str, Any], terms: Terms) -> None:
        """Read the configs; no data yet."""
        self.terms = terms
        self.partition: int = _value(config, "partition-id", int, -1)
        self.partitions: int = _value(config, "num-partitions", int, -1)
        self.place: str = _value(config, "data", str, "")
        self.state: str = _value(config, "state", str, "")
        self.counts: bool = _value(config, "report-counts", bool, True)
        self.scenario = _scenario(run_config, terms)

    def data(self, client: int) -> FederatedData:
        """Give the data that it trains on as those of a client.

        Raises:
            UserError: they are not there, or not what the scenario needs.
        """
        scenario = self.scenario
        if not self.place:
            if self.partition < 0:
                raise UserError("node config: neither 'data' nor 'partition-id' says what this node trains on")
            if scenario.data.name == "private":
                raise UserError("node config: 'data' is missing; the scenario has no data of its own")
            data = build_data(scenario)[0]
            if self.partition >= data.clients:
                raise UserError(
                    f"node config: partition-id is {self.partition}; the scenario has 0 .. {data.clients - 1}"
                )
            return data
        x, y = read_own(self.place, Wanted(self.terms.shape, self.terms.dtype, self.terms.classes))
        if y.ndim != 1 and self.terms.dtype != "int64":
            raise UserError(f"{self.place}: labels of shape {list(y.shape[1:])}; one label an example is needed")
        held_out = scenario.data.validation
        return own_data(x, y, classes=self.terms.classes, client=client, validation=held_out, seed=scenario.seed)

    def answer(self) -> Answer:
        """Say who it is.

        Raises:
            UserError: as for ``data``.
        """
        at = max(self.partition, 0)
        examples = int(self.data(at).sizes[at])
        if examples < 1:
            raise UserError("this node has no examples to train on")
        return Answer(self.partition, self.partitions, examples if self.counts else -1)


def _scenario(config: Mapping[str, Any], terms: Terms) -> FederatedScenario:
    loaded = Settings.read(config).load()
    for arm in loaded.arms:
        if arm.name == terms.arm and isinstance(arm.scenario, FederatedScenario):
            return arm.scenario
    raise UserError(f"the scenario of this node has no arm '{terms.arm}'")


def _value(config: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = config.get(key, default)
    if type(value) is not kind or (isinstance(value, int) and value < -1):
        what = {int: "a whole number", str: "a text", bool: "true or false"}[kind]
        raise UserError(f"node config: {key} must be {what}, not {value!r}")
    return value
