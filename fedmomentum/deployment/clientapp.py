"""The client half of the deployed app: a SuperNode that trains on its own data, or on a part of the scenario's.

Flower starts a process for each message: nothing is kept in memory from one to the next, and what a message does not
need is not imported.
"""

from __future__ import annotations

from typing import Literal, cast

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedmomentum.deployment.node import Node
from fedmomentum.deployment.terms import ANSWER, Answer, Terms
from fedmomentum.errors import UserError
from fedmomentum.protocol import GRADIENT_QUERY, SERVER_ROUND

app = ClientApp()


@app.query()
def join(message: Message, context: Context) -> Message:
    """Say who this node is, or why it cannot take part."""
    try:
        answer = Node(context.node_config, context.run_config, Terms.of(message.content)).answer()
    except UserError as error:
        answer = Answer(refusal=str(error))
    return Message(RecordDict({ANSWER: answer.record()}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train, and send the model back."""
    return _work(message, context, "train")


@app.train(GRADIENT_QUERY.split(".")[1])
def gradient(message: Message, context: Context) -> Message:
    """Send the gradient of the whole loss."""
    return _work(message, context, "gradient")


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Test the model on the examples that are held out here."""
    return _work(message, context, "evaluate")


def _work(message: Message, context: Context, kind: Literal["train", "evaluate", "gradient"]) -> Message:
    from fedmomentum.build import build
    from fedmomentum.clients.app import MEMORY, Seat, respond
    from fedmomentum.clients.worker import Worker
    from fedmomentum.deployment.memory import Memory

    terms = Terms.of(message.content)
    node = Node(context.node_config, context.run_config, terms)
    federation = build(node.scenario, data=node.data(terms.client))
    worker = Worker(federation.spec, federation.data)
    drawer = f"{terms.arm}/"
    memory = Memory(node.state, terms, MEMORY + drawer) if node.state else None
    config = next(iter(message.content.config_records.values()))
    server_round = int(cast(int, config.get(SERVER_ROUND, 1)))
    if memory is not None:
        memory.recall(context.state, server_round)
    reply = respond(message, context, Seat(worker, terms.client, node.counts, drawer), kind)
    if memory is not None and kind == "train":
        memory.keep(context.state, server_round)
    return reply
