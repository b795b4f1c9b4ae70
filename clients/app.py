"""The client half as a Flower ClientApp: the same worker, one client at a time, on any engine or a real machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedmomentum.clients.block import Arrays, BlockTask
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.clients.worker import Worker
from fedmomentum.data import FederatedData
from fedmomentum.protocol import ARRAYS, GRADIENT_QUERY, METRICS, NUM_EXAMPLES, SERVER_ROUND
from fedmomentum.trees import State

MEMORY = "fedmomentum."
"""Prefix of the records of a node's context that hold what its client keeps between rounds."""

_TELL_SIZES = (NUM_EXAMPLES, "steps", "probe_gradients")
"""Metrics that tell how many examples a client has."""

Kind: TypeAlias = Literal["train", "evaluate", "gradient"]
Mod: TypeAlias = Callable[[Message, Context, Callable[[Message, Context], Message]], Message]
"""What Flower calls a mod: message, context and the next callable -> reply."""


class ClientFailed(RuntimeError):
    """A client's training failed or gave numbers that are not finite; Flower turns it into an error reply."""


@dataclass(frozen=True)
class Seat:
    """What a node works with for one message.

    Args:
        worker: holds its data and a network.
        client: which client of the worker's data it is.
        counts: whether its replies tell how many examples it has; where they do not, its weight is 1.
        drawer: keeps apart what it remembers of several trainings; any text.
    """

    worker: Worker
    client: int
    counts: bool = True
    drawer: str = ""


def client_app(
    spec: ClientSpec, data: FederatedData | Callable[[], FederatedData], *, mods: Sequence[Mod] = ()
) -> ClientApp:
    """Give a Flower ClientApp that trains and evaluates as our simulated clients do, by any method.

    The node's config says which client it is: ``partition-id``, as in any Flower app (0 where it says nothing). What a
    client keeps between rounds lives in its ``Context.state``.

    Args:
        spec: what the client does.
        data: the federated data, or a function that loads it when the first message comes.
        mods: Flower's, or of the same kind, around training, the first one outermost: ``[fixedclipping_mod]``.
    """
    made: list[Worker] = []

    def sit(message: Message, context: Context) -> Seat:
        if not made:
            made.append(Worker(spec, data() if callable(data) else data))
        return Seat(made[0], int(cast(int, context.node_config.get("partition-id", 0))))

    return app_of(sit, mods=mods)


def app_of(sit: Callable[[Message, Context], Seat], *, mods: Sequence[Mod] = ()) -> ClientApp:
    """Give a Flower ClientApp whose nodes learn from each message what they work with.

    Args:
        sit: message and context -> worker, client and what may be told.
        mods: around training.
    """
    app = ClientApp()

    @app.train(mods=list(mods))
    def train(message: Message, context: Context) -> Message:
        return respond(message, context, sit(message, context), "train")

    @app.train(GRADIENT_QUERY.split(".")[1])
    def gradient(message: Message, context: Context) -> Message:
        return respond(message, context, sit(message, context), "gradient")

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return respond(message, context, sit(message, context), "evaluate")

    return app


def respond(message: Message, context: Context, seat: Seat, kind: Kind) -> Message:
    """Do what a message asks for, and remember in the context what the client keeps.

    Raises:
        ClientFailed: the client's training failed.
    """
    drawer = MEMORY + seat.drawer
    reply, kept = work(message.content, recall(context.state, drawer), seat, kind)
    remember(context.state, drawer, kept)
    return Message(reply, reply_to=message)


def work(content: RecordDict, kept: State, seat: Seat, kind: Kind) -> tuple[RecordDict, State]:
    """Do what the content of a message asks for; give the content of the reply and what the client keeps from now on.

    Args:
        content: of the message.
        kept: what the client has kept so far.
        seat: what it works with.
        kind: what it is asked for.

    Raises:
        ClientFailed: the client's training failed.
    """
    client = seat.client
    task = BlockTask(
        index=0,
        kind=kind,
        round=round_of(content),
        clients=(client,),
        reduce=False,
        memory={client: kept},
    )
    result = seat.worker.run(task, records_of(content))
    assert result is not None
    if result.failures:
        raise ClientFailed(f"client {client}: {result.failures[0].reason}")
    numbers = {name: float(column[0]) for name, column in result.members.items() if name != "client"}
    if not seat.counts:
        numbers = {name: value for name, value in numbers.items() if name not in _TELL_SIZES} | {NUM_EXAMPLES: 1.0}
    reply = RecordDict({METRICS: MetricRecord(numbers)})  # type: ignore[arg-type]
    for record, arrays in (result.each[0] if result.each else {}).items():
        reply[record] = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    return reply, result.memory.get(client, kept)


def round_of(content: RecordDict) -> int:
    """Give the number of the round that the content of a message belongs to."""
    config = next(iter(content.config_records.values()), ConfigRecord())
    return int(cast(int, config.get(SERVER_ROUND, 1)))


def records_of(content: RecordDict, read: Callable[[ArrayRecord], Arrays] | None = None) -> dict[str, Arrays]:
    """Give the arrays of a message by record name; the only or first record is the model, whatever it is called.

    Args:
        content: of the message.
        read: gives the arrays of a record; by default they are copied.
    """
    read = read or (lambda record: {name: array.numpy() for name, array in record.items()})
    named = {name: read(record) for name, record in content.items() if isinstance(record, ArrayRecord)}
    if named and ARRAYS not in named:
        first = next(iter(named))
        named = {ARRAYS: named.pop(first), **named}
    return named


def recall(state: RecordDict, drawer: str) -> State:
    """Give what a context keeps in records with a prefix."""
    return {
        slot.removeprefix(drawer): {n: torch.from_numpy(a.numpy()) for n, a in record.items()}
        for slot, record in state.array_records.items()
        if slot.startswith(drawer)
    }


def remember(state: RecordDict, drawer: str, kept: State) -> None:
    """Let a context keep this, and nothing else, in records with a prefix."""
    for key in [key for key in state.array_records if key.startswith(drawer)]:
        del state[key]
    for slot, tree in kept.items():
        state[drawer + slot] = ArrayRecord({n: Array(t.detach().cpu().numpy()) for n, t in tree.items()})
