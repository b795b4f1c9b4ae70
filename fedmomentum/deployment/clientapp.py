"""The client half of the deployed app: a SuperNode that trains on its own data, or on a part of the scenario's.

Flower starts a process for each message. It imports next to nothing of ours: the work is done by a process that stays
(:mod:`fedmomentum.deployment.resident`), or here where there is none.
"""

from __future__ import annotations

from logging import WARNING

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common import log

from fedmomentum.deployment.handover import Asked, Done, Kind, NobodyStaysError, resident
from fedmomentum.protocol import GRADIENT_QUERY

app = ClientApp()


@app.query()
def join(message: Message, context: Context) -> Message:
    """Say who this node is, or why it cannot take part."""
    return _reply(message, context, "join")


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train, and send the model back."""
    return _reply(message, context, "train")


@app.train(GRADIENT_QUERY.split(".")[1])
def gradient(message: Message, context: Context) -> Message:
    """Send the gradient of the whole loss."""
    return _reply(message, context, "gradient")


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Test the model on the examples that are held out here."""
    return _reply(message, context, "evaluate")


def _reply(message: Message, context: Context, kind: Kind) -> Message:
    asked = Asked(kind, message.content, context.state, dict(context.node_config), dict(context.run_config))
    done = _handed_over(asked, context)
    if done is None:
        from fedmomentum.deployment.desk import Desk

        done = Desk().work(asked)
    context.state = done.state
    return Message(done.content, reply_to=message)


def _handed_over(asked: Asked, context: Context) -> Done | None:
    there = resident(asked, context.run_id, context.node_id)
    if there is None:
        return None
    try:
        return there.work(asked)
    except NobodyStaysError as error:
        log(WARNING, "data are read anew for this message, for no process can stay: %s", error)
        return None
