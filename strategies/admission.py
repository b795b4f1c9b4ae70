"""What a reply must look like before it may touch the model: one bad client costs its own reply, not the round."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from logging import INFO, WARNING
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore import log
from numpy.typing import NDArray

from fedmomentum import protocol
from fedmomentum.events import Failure
from fedmomentum.strategies import records
from fedmomentum.strategies.reports import Reports, all_numbers


class Expected(NamedTuple):
    """What the replies of a round must hold.

    Args:
        weighted_by: the metric that is the weight of a reply.
        model: names, shapes and dtypes of the global model; None where replies carry metrics only.
        model_record: name of the model's record, which matters only where replies hold several.
        extras: record name -> names, shapes and dtypes of the arrays that replies carry beside the model.
        metrics: finite numbers that each client has to report.
        longest: largest Euclidean length of an update, over the tensors named ``judged``; None for any.
    """

    weighted_by: str
    model: Mapping[str, NDArray[Any]] | None = None
    model_record: str = protocol.ARRAYS
    extras: Mapping[str, Mapping[str, NDArray[Any]]] = MappingProxyType({})
    metrics: tuple[str, ...] = ()
    longest: float | None = None
    judged: frozenset[str] = frozenset()


class Reply(NamedTuple):
    """An admitted reply, of one client or of a whole block."""

    node: int
    weight: float
    arrays: records.Views
    extras: Mapping[str, records.Views]
    reports: Reports
    """Of the client, or of a block: its ``MEMBERS`` table."""
    content: RecordDict
    """The reply as it came."""
    members: tuple[int, ...] | None = None
    """The clients of a block; None for one client's own reply."""
    record: Mapping[str, Array] = MappingProxyType({})
    """What ``arrays`` are views of, where they are."""

    @property
    def clients(self) -> tuple[int, ...]:
        """The clients that this reply stands for."""
        return (self.node,) if self.members is None else self.members

    def contents(self, weighted_by: str) -> list[RecordDict]:
        """Give what an aggregation function of the user's should see: one RecordDict a client, never one a block."""
        if self.members is None:
            return [self.content]
        rows = [MetricRecord({**row, weighted_by: weight}) for weight, row in self.reports.rows()]  # type: ignore[dict-item]
        return [RecordDict({protocol.METRICS: row}) for row in rows]


class _RejectedError(Exception):
    """A reply is not admitted; the message says why."""


def admit(messages: Iterable[Message], expected: Expected) -> tuple[list[Reply], list[Failure]]:
    """Sort replies by node, then into those that may be averaged and those that may not, each with its reason.

    A reply is refused when it is an error; when it does not hold one MetricRecord and the expected ArrayRecords; when a
    tensor is missing, unknown, of another shape, or not finite; when its weight is missing, negative or not finite; or
    when its update is longer than is allowed.
    Dtypes: a floating tensor may come in any floating dtype and an integer one in any integer dtype, and is cast to the
    model's if its values fit it; integers for floats or floats for integers are refused.
    """
    replies: list[Reply] = []
    failures: list[Failure] = []
    for message in sorted(messages, key=lambda message: message.metadata.src_node_id):
        node = message.metadata.src_node_id
        if message.has_error():
            failures.append(Failure(node, message.error.reason or f"error {message.error.code}"))
            continue
        try:
            replies.append(_admit(node, message.content, expected))
        except (_RejectedError, ValueError, TypeError) as error:
            failures.append(Failure(node, str(error), kind="rejected"))
    return replies, failures


def _admit(node: int, content: RecordDict, expected: Expected) -> Reply:
    metrics = _only_metrics(content)
    weight = _weight(metrics, expected.weighted_by)
    arrays: records.Views = {}
    extras: dict[str, records.Views] = {}
    found: Mapping[str, Array] = {}
    if expected.model is not None:
        sent = records.of_kind(content, ArrayRecord)
        found = _model_record(sent, expected)
        arrays = _fitting(found, expected.model)
        _not_too_long(arrays, expected)
        extras = {name: _fitting(sent[name], like, f"{name}: ") for name, like in expected.extras.items()}
    table = content.get(protocol.MEMBERS)
    if not isinstance(table, ConfigRecord):
        _reported(expected.metrics, own := Reports((weight,), metrics))
        return Reply(node, weight, arrays, extras, own, content, record=found)
    members, reports = _block(table, metrics, expected.weighted_by)
    _reported(expected.metrics, reports)
    return Reply(node, weight, arrays, extras, reports, content, members, found)


def _only_metrics(content: RecordDict) -> MetricRecord:
    found = list(records.of_kind(content, MetricRecord).values())
    if len(found) != 1:
        raise _RejectedError(f"{len(found)} MetricRecords where one is expected")
    return found[0]


def _reported(wanted: tuple[str, ...], reports: Reports) -> None:
    for name in wanted if len(reports) else ():
        column = reports.numbers(name)
        finite = np.isfinite(np.array([math.nan] if column is None else column, np.float64))
        if not finite.all():
            value = reports.common.get(name) if column is None else column[int(finite.argmin())]
            raise _RejectedError(f"metric '{name}', which the strategy goes by, must be a finite number, not {value}")


def _weight(metrics: Mapping[str, object], name: str) -> float:
    weight = metrics.get(name)
    if weight is None:
        raise _RejectedError(f"metric '{name}', the weight, is missing")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise _RejectedError(f"metric '{name}', the weight, must be a number, not a {type(weight).__name__}")
    if not 0.0 <= weight < math.inf:
        raise _RejectedError(f"metric '{name}', the weight, must be finite and at least 0, not {weight}")
    return float(weight)


def _model_record(found: Mapping[str, ArrayRecord], expected: Expected) -> ArrayRecord:
    """Find the model's record: without extras it may have any name, as in Flower."""
    missing = [name for name in expected.extras if name not in found]
    if missing:
        raise _RejectedError(f"ArrayRecord '{missing[0]}' is missing")
    rest = [name for name in found if name not in expected.extras]
    if len(rest) != 1:
        raise _RejectedError(f"{len(rest)} ArrayRecords for the model where one is expected")
    if expected.extras and rest[0] != expected.model_record:
        raise _RejectedError(f"ArrayRecord '{rest[0]}' is not expected; the model's is '{expected.model_record}'")
    return found[rest[0]]


def _fitting(found: ArrayRecord, like: Mapping[str, NDArray[Any]], where: str = "") -> records.Views:
    """Give the arrays of a record, cast to the dtypes of the model, or say what is wrong with them."""
    if (names := set(found)) != like.keys():
        missing, unknown = sorted(like.keys() - names), sorted(names - like.keys())
        fault = f"tensor '{missing[0]}' is missing" if missing else f"tensor '{unknown[0]}' is not in the model"
        raise _RejectedError(where + fault)
    arrays = records.views(found)
    return {name: _cast(f"{where}tensor '{name}'", arrays[name], x) for name, x in like.items()}


def _cast(what: str, x: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    if x.shape != like.shape:
        raise _RejectedError(f"{what} has shape {list(x.shape)}, the model has {list(like.shape)}")
    if x.dtype != like.dtype:
        if (x.dtype.kind == "f") != (like.dtype.kind == "f"):
            raise _RejectedError(f"{what} is {x.dtype}, the model has {like.dtype}")
        _finite(what, x)
        with np.errstate(over="ignore"):
            y = x.astype(like.dtype)
        fits = np.isfinite(y).all() if y.dtype.kind == "f" else np.array_equal(x, y)
        if not fits:
            raise _RejectedError(f"{what} holds {x.dtype} values that do not fit the model's {like.dtype}")
        return y
    _finite(what, x)
    return x


def _not_too_long(arrays: records.Views, expected: Expected) -> None:
    if expected.longest is None or expected.model is None:
        return
    total = 0.0
    for name in expected.judged:
        change = arrays[name].astype(np.float64) - expected.model[name]
        total += float(np.vdot(change, change))
    if not math.sqrt(total) <= expected.longest:
        raise _RejectedError(f"its update is {math.sqrt(total):.4g} long, at most {expected.longest:g} is allowed")


def _finite(what: str, x: NDArray[Any]) -> None:
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise _RejectedError(f"{what} holds {'NaN' if np.isnan(x).any() else 'infinite values'}")


def _block(table: ConfigRecord, metrics: Mapping[str, object], weighted_by: str) -> tuple[tuple[int, ...], Reports]:
    """Read the ``MEMBERS`` table of a block; a metric outside it, such as a list, counts alike for all members."""
    columns: dict[str, list[Any]] = {
        name: value for name, value in table.items() if isinstance(value, list) and all_numbers(value)
    }
    clients, shares = columns.pop("client", None), columns.pop(protocol.NUM_EXAMPLES, None)
    if clients is None or shares is None:
        raise _RejectedError(f"the table of members lacks '{'client' if clients is None else protocol.NUM_EXAMPLES}'")
    ragged = [
        name for name, column in (*columns.items(), (protocol.NUM_EXAMPLES, shares)) if len(column) != len(clients)
    ]
    if ragged:
        raise _RejectedError(f"the table of members has {len(clients)} clients and another number of '{ragged[0]}'")
    common = {name: metrics[name] for name in metrics if name not in columns and name != weighted_by}
    return tuple(map(int, clients)), Reports(list(map(float, shares)), common, columns)


def silent(asked: Sequence[int], replies: Sequence[Reply], failures: Sequence[Failure]) -> list[Failure]:
    """Name the nodes that were asked and never answered.

    A block is counted by the clients in its table; where those are not node ids, nobody can be named.
    """
    answered = {reply.node for reply in replies}.union(*(reply.clients for reply in replies))
    answered |= {failure.client for failure in failures}
    if len(answered) >= len(asked) or not answered.issubset(asked):
        return []
    return [Failure(node, "no reply came in time", kind="late") for node in asked if node not in answered]


def log_admission(when: str, accepted: int, failures: Sequence[Failure]) -> None:
    """Say in one line how many replies are used and who is left out, and why."""
    if not failures:
        log(INFO, "%s: %d replies", when, accepted)
        return
    named = "; ".join(f"node {failure.client}: {failure.reason}" for failure in failures[:5])
    more = f"; and {len(failures) - 5} more" if len(failures) > 5 else ""
    log(WARNING, "%s: %d replies, %d not used: %s%s", when, accepted, len(failures), named, more)
