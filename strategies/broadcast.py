"""The messages of a round, all with one content: made when somebody looks at one, not before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from flwr.app import Message, RecordDict


class Broadcast(Sequence[Message]):
    """One message to each of many nodes.

    To any Flower grid it is a sequence of messages. Our engine reads ``content`` and ``nodes`` instead, so a round of a
    thousand clients costs it no thousand messages.

    Attributes:
        ids: by position, those of messages that a grid has replied to before anybody looked at them.
    """

    def __init__(self, content: RecordDict, nodes: Sequence[int], message_type: str) -> None:
        """Take the content, the nodes in order, and the type of the messages."""
        self.content, self.nodes, self.message_type = content, nodes, message_type
        self.ids: dict[int, str] = {}
        self._made: dict[int, Message] = {}

    def __len__(self) -> int:
        """Give the number of nodes."""
        return len(self.nodes)

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | Sequence[Message]:
        """Give a message: always the same one, because a grid writes its id into it."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        if position not in self._made:
            message = Message(self.content, dst_node_id=self.nodes[position], message_type=self.message_type)
            if position in self.ids:
                stamp(message, self.ids[position])
            self._made[position] = message
        return self._made[position]

    def seen(self, position: int) -> bool:
        """Say whether somebody has looked at the message to the node at a position."""
        return position in self._made


def stamp(message: Message, identity: str) -> None:
    """Give a message the id that a SuperLink would give it, so that it can be replied to."""
    message.metadata.__dict__["_message_id"] = identity
