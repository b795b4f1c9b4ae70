"""What a SuperNode's config says, and which data that is: its own, or a part of the scenario's for a rehearsal.

The keys of the node config are ``data`` (a file or folder, see :func:`fedmomentum.data.own.read_own`), ``partition-id``
and ``num-partitions`` as in any Flower app, ``report-counts`` (``false`` keeps the number of examples secret),
``state`` (a folder for what the client keeps between rounds, see :mod:`fedmomentum.deployment.memory`), and
``resident`` (``false`` lets no process stay between two messages, see :mod:`fedmomentum.deployment.resident`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedmomentum.build_data import build_data
from fedmomentum.data import Dataset, FederatedData
from fedmomentum.data.dataset import Array, Ints
from fedmomentum.data.own import Wanted, own_data, read_own
from fedmomentum.deployment.terms import Answer, Terms
from fedmomentum.errors import UserError
from fedmomentum.scenario import FederatedScenario, LoadedScenario


class Reader:
    """Reads data, and keeps what it read last: it is not read again while the files are the same."""

    def __init__(self) -> None:
        """Read nothing yet."""
        self._own: tuple[Hashable, Array, Ints] | None = None
        self._datasets: dict[str, Dataset] = {}

    def own(self, place: str, wanted: Wanted) -> tuple[Array, Ints]:
        """Give a node's own data.

        Raises:
            UserError: they are not there, or not what is wanted.
        """
        key = (stamp(place), wanted)
        if self._own is None or self._own[0] != key:
            self._own = None
            self._own = (key, *read_own(place, wanted))
        return self._own[1:]

    def parts(self, scenario: FederatedScenario) -> FederatedData:
        """Give the scenario's own data, split over its clients."""
        data = build_data(scenario, self._datasets)[0]
        for older in list(self._datasets)[:-1]:
            del self._datasets[older]
        return data


def stamp(place: str) -> Hashable:
    """Give what tells whether files have changed: name, size and time of a file, or of what lies in a folder.

    A folder in it counts by the time at which something was put into it or taken out.
    """
    path = Path(place).expanduser()
    found = []
    with suppress(OSError):  # what is not there is said when it is read
        for entry in (path, *(sorted(path.iterdir()) if path.is_dir() else ())):
            about = entry.stat()
            found.append((str(entry), about.st_ino, about.st_size, about.st_mtime_ns))
    return tuple(found)


class Node:
    """One SuperNode, for one message.

    Args:
        config: its node config.
        loaded: the scenario of the run.
        terms: what the server told it.
        reader: reads the data.

    Raises:
        UserError: a value of the config is not of its kind, or the scenario has no such arm.
    """

    def __init__(self, config: Mapping[str, Any], loaded: LoadedScenario, terms: Terms, reader: Reader) -> None:
        """Read the config; no data yet."""
        self.terms, self._reader = terms, reader
        self.partition: int = _value(config, "partition-id", int, -1)
        self.partitions: int = _value(config, "num-partitions", int, -1)
        self.place: str = _value(config, "data", str, "")
        self.state: str = _value(config, "state", str, "")
        self.counts: bool = _value(config, "report-counts", bool, True)
        _value(config, "resident", bool, True)
        self.scenario = _arm(loaded, terms)

    def stamp(self) -> Hashable:
        """Give what tells whether its own data have changed."""
        return stamp(self.place) if self.place else None

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
            data = self._reader.parts(scenario)
            if self.partition >= data.clients:
                raise UserError(
                    f"node config: partition-id is {self.partition}; the scenario has 0 .. {data.clients - 1}"
                )
            return data
        x, y = self._reader.own(self.place, Wanted(self.terms.shape, self.terms.dtype, self.terms.classes))
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


def _arm(loaded: LoadedScenario, terms: Terms) -> FederatedScenario:
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
