"""What both halves of the app say to each other beside Flower's own records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from flwr.app import ConfigRecord, RecordDict

JOIN = "query"
"""Type of the message that asks a node who it is: Flower's own type for questions."""
TERMS = "fedmomentum"
"""ConfigRecord of a message to a node."""
ANSWER = "fedmomentum-answer"
"""ConfigRecord of the reply to ``JOIN``."""


@dataclass(frozen=True)
class Terms:
    """What a node is told with each message.

    Args:
        run: name of the run, the same when it is gone on with.
        arm: of the scenario.
        client: the number that the node goes by; -1 before it has one.
        shape: of one example of the data that the model is for.
        dtype: of it.
        classes: labels are in ``0 .. classes - 1``.
        used: the last round in which a reply of this client counted; 0 for none.
    """

    run: str
    arm: str
    client: int
    shape: tuple[int, ...]
    dtype: str
    classes: int
    used: int = 0

    def record(self) -> ConfigRecord:
        """Give the terms as a record."""
        return ConfigRecord(
            {
                "run": self.run,
                "arm": self.arm,
                "client": self.client,
                "shape": list(self.shape),
                "dtype": self.dtype,
                "classes": self.classes,
                "used": self.used,
            }
        )

    @classmethod
    def of(cls, content: RecordDict) -> Terms:
        """Read the terms of a message.

        Raises:
            KeyError: the message has none; another server sent it.
        """
        record = cast(Mapping[str, Any], content.config_records[TERMS])
        return cls(
            run=record["run"],
            arm=record["arm"],
            client=int(record["client"]),
            shape=tuple(record["shape"]),
            dtype=record["dtype"],
            classes=int(record["classes"]),
            used=int(record["used"]),
        )


@dataclass(frozen=True)
class Answer:
    """What a node says of itself when it is asked.

    Args:
        partition: which part of the scenario's own data set it trains on; -1 where it has data of its own.
        partitions: of how many.
        examples: how many examples it trains on; -1 where it does not tell.
        refusal: why it cannot take part; empty where it can.
    """

    partition: int = -1
    partitions: int = -1
    examples: int = -1
    refusal: str = ""

    def record(self) -> ConfigRecord:
        """Give the answer as a record."""
        return ConfigRecord(
            {
                "partition": self.partition,
                "partitions": self.partitions,
                "examples": self.examples,
                "refusal": self.refusal,
            }
        )

    @classmethod
    def of(cls, content: RecordDict) -> Answer:
        """Read a node's answer.

        Raises:
            ValueError: it is none; the message says what is wrong with it.
        """
        record: Mapping[str, Any] = content.config_records.get(ANSWER, ConfigRecord())
        values: dict[str, Any] = {}
        for name, kind in (("partition", int), ("partitions", int), ("examples", int), ("refusal", str)):
            value = record.get(name)
            if type(value) is not kind:
                raise ValueError(f"its answer has {value!r} for '{name}'")
            values[name] = value
        return cls(**values)
