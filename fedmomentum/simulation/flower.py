"""The private names of Flower that the engine depends on, in one file, with a test that fails when Flower moves one.

Flower's own messages can only be made inside a task that its SuperLink started, and a reply needs the id that the
SuperLink gave to the message. A grid of one's own has to give both. (Strategies know two more names: where records keep
their entries, in ``strategies/records.py``, and the id of a message, in ``strategies/broadcast.py``.)
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from flwr.app import DEFAULT_TTL, Array, ArrayRecord, Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedmomentum.clients.block import Arrays
from fedmomentum.strategies.broadcast import stamp as stamp

SERVER_NODE_ID = 1
ERROR_CODE = 0
"""Flower's code for an error of unknown kind; the reason says the rest."""


def adopt_identity(run_id: int) -> None:
    """Give this process the identity that :class:`flwr.app.Message` asks for, unless it already has one."""
    if TaskIdentity._run_id is None:
        TaskIdentity.run_id = run_id
    if TaskIdentity._node_id is None:
        TaskIdentity.node_id = SERVER_NODE_ID
    if TaskIdentity._task_id is None:
        TaskIdentity.task_id = run_id


def empty_run(run_id: int) -> Run:
    """Give a run for a grid that has no SuperLink."""
    return Run.create_empty(run_id)


def addressed(content: RecordDict, metadata: Metadata) -> Message:
    """Give a message again from its two halves: the content travels once for all the messages of a round."""
    return Message(content=content, metadata=metadata)  # type: ignore[call-overload,no-any-return]


def reply(message: Message, content: RecordDict) -> Message:
    """Give the reply of the node that a stamped message went to."""
    return Message(content, reply_to=message)


def reply_unseen(content: RecordDict, *, node: int, identity: str, message_type: str) -> Message:
    """Give what :func:`reply` gives for the message to a node with an id, without that message.

    Field by field: Flower's constructors check each argument, which takes longer than all else that a reply takes.
    """
    metadata = Metadata.__new__(Metadata)
    vars(metadata).update(
        _run_id=TaskIdentity._run_id,
        _message_id="",
        _src_node_id=node,
        _dst_node_id=TaskIdentity._node_id,
        _src_task_id=None,
        _dst_task_id=TaskIdentity._task_id,
        _reply_to_message_id=identity,
        _group_id="",
        _created_at=time.time(),
        _ttl=DEFAULT_TTL,
        _message_type=message_type,
        _delivered_at="",
    )
    message = Message.__new__(Message)
    vars(message).update(_metadata=metadata, _content=content, _error=None)
    return message


def error_reply(message: Message, reason: str) -> Message:
    """Give the reply of a node that failed; the reason is for people."""
    return Message(Error(ERROR_CODE, reason), reply_to=message)


def from_node(reply: Message, number: int) -> Message:
    """Let a reply count as that of the node with another number; it is changed in place."""
    reply.metadata.__dict__["_src_node_id"] = number
    return reply


def as_error(reply: Message, reason: str) -> Message:
    """Give an error in place of a reply."""
    return make_message(metadata=reply.metadata, error=Error(ERROR_CODE, reason))


def unsent_error(message: Message, number: int, reason: str) -> Message:
    """Give the error reply of a node that a message never came to, or never came back from."""
    asked = message.metadata
    metadata = Metadata(
        run_id=asked.run_id,
        message_id="",
        src_node_id=number,
        dst_node_id=asked.src_node_id,
        reply_to_message_id=asked.message_id,
        group_id=asked.group_id,
        created_at=asked.created_at,
        ttl=asked.ttl,
        message_type=asked.message_type,
    )
    return make_message(metadata=metadata, error=Error(ERROR_CODE, reason))


def to_arrays(record: ArrayRecord) -> Arrays:
    """Give the arrays of a record."""
    return {name: value.numpy() for name, value in record.items()}


def to_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Give a record that holds arrays."""
    return ArrayRecord({name: Array(np.asarray(value, order="C")) for name, value in arrays.items()})
