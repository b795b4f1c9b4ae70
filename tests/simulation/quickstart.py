"""A Flower app as anyone would write it: a plain PyTorch client that has never heard of this package."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

app = ClientApp()


def initial():
    torch.manual_seed(0)
    return ArrayRecord(nn.Linear(5, 2).state_dict())


@app.train()
def train(message, context):
    partition = context.node_config["partition-id"]
    if partition == 3:
        raise OSError("client 3 has no disk")
    model = nn.Linear(5, 2)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    generator = torch.Generator().manual_seed(partition)
    x, y = torch.randn(20, 5, generator=generator), torch.randint(0, 2, (20,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    seen = context.state["seen"]["visits"] + 1 if "seen" in context.state else 1
    context.state["seen"] = MetricRecord({"visits": seen})
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"loss": loss.item(), "visits": seen, "num-examples": len(y)}),
        }
    )
    return Message(content, reply_to=message)
