"""Ten clients with a quadratic each, behind a Flower grid: strategies and client halves, on problems solved by hand."""

from __future__ import annotations

from dataclasses import replace

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedmomentum.clients.local import Place
from fedmomentum.clients.methods import make_local
from fedmomentum.clients.rules import make_client_rule, own_noise
from fedmomentum.optim import expand_state
from fedmomentum.optim.problems import heterogeneous_quadratics
from fedmomentum.protocol import GRADIENT_QUERY, MEMBERS, SERVER_ROUND
from fedmomentum.simulation import flower
from fedmomentum.simulation.grid import BaseGrid
from fedmomentum.strategies import make_strategy
from fedmomentum.streams import key

PROBLEM = heterogeneous_quadratics(0)
CLIENTS, DIMENSION = PROBLEM.centres.shape
START = torch.linspace(-2.0, 3.0, DIMENSION, dtype=torch.float64)


class QuadraticGrid(BaseGrid):
    """Nodes that each descend their own quadratic by a client half, all steps of a round on one stacked tree.

    Clients of unequal steps are trained apart, group by group, and answer in one block each, as on the engine.
    """

    def __init__(self, method, options, *, rule, lr, steps, problem=PROBLEM, momentum=None):
        super().__init__(len(problem.centres))
        hyper = {"lr": lr} | ({} if momentum is None else {"momentum": momentum})
        self.local, self.lr, self.problem = make_local(method, make_client_rule(rule, **hyper), **options), lr, problem
        self.steps = [steps] * len(problem.centres) if isinstance(steps, int) else steps
        self.memory = {}

    def _work(self, messages, timeout):
        by_steps = {}
        for message in messages:
            by_steps.setdefault(self.steps[message.metadata.dst_node_id], []).append(message)
        blocks = [self._block(group, steps) for steps, group in by_steps.items()]
        return [reply for block in blocks for reply in (block if isinstance(block, list) else [block])]

    def gradient(self, clients):
        """Give the gradients of so many clients at stacked points."""
        hessians, centres = self.problem.hessians[clients], self.problem.centres[clients]
        return lambda point: {"x": (hessians @ (point["x"] - centres).unsqueeze(-1)).squeeze(-1)}

    def _single(self, message, sent):
        numbers = MetricRecord({"num-examples": 1.0, "lr": self.lr, "steps": 1.0})
        reply = RecordDict({"metrics": numbers})
        for name, tree in sent.items():
            reply[name] = ArrayRecord({n: Array(x.numpy()) for n, x in tree.items()})
        return flower.reply(message, reply)

    def _block(self, messages, steps):
        clients = [m.metadata.dst_node_id for m in messages]
        content, size = messages[0].content, len(clients)
        records = {
            name: {n: torch.from_numpy(a.numpy().copy()) for n, a in record.items()}
            for name, record in content.array_records.items()
        }
        anchor = {name: x.expand(size, *x.shape) for name, x in records.pop("arrays").items()}
        shared = {r: {n: x.expand(size, *x.shape) for n, x in t.items()} for r, t in records.items()}
        gradient = self.gradient(clients)
        if messages[0].metadata.message_type == GRADIENT_QUERY:
            sent = {"gradient": gradient(anchor)}
        else:
            sent = self._train(clients, gradient, anchor, shared, steps, server_round(messages[0]))
        if self.local.compressed:  # what cannot be averaged is sent one by one
            return [
                self._single(m, {r: {n: x[k] for n, x in t.items()} for r, t in sent.items()})
                for k, m in enumerate(messages)
            ]
        columns = {"lr": [self.lr] * size, "steps": [float(steps)] * size}
        reply = RecordDict({"metrics": MetricRecord({"num-examples": float(size)})})
        for name, tree in sent.items():
            reply[name] = ArrayRecord({n: Array(x.mean(0).numpy()) for n, x in tree.items()})
        reply[MEMBERS] = ConfigRecord({"client": clients, "num-examples": [1.0] * size, **columns})
        return flower.reply(messages[0], reply)

    def _train(self, clients, gradient, anchor, shared, steps, round_number):
        local, memory = self.local, {}
        if local.remember is not None:
            fresh = local.remember({"x": anchor["x"][0]})
            kept = [self.memory.get(c, fresh) for c in clients]
            memory = {slot: {n: torch.stack([k[slot][n] for k in kept]) for n in fresh[slot]} for slot in fresh}
        place = Place(
            anchor,
            shared,
            memory,
            steps=torch.full((len(clients),), steps),
            lr=self.lr,
            full_gradient=gradient(anchor),
            key=torch.tensor([key(0, "noise", round=round_number, client=c) for c in clients]),
            common_key=key(0, "noise", round=round_number),
            examples=torch.ones(len(clients), dtype=torch.float64),
            round=round_number,
        )
        state = own_noise(expand_state(local.rule.init({"x": anchor["x"][0]}), len(clients)), place.key)
        params = anchor
        if local.begin is not None:
            params, state = local.begin(params, state, place)
        for _ in range(steps):
            grads = gradient(params)
            if local.direction is not None:
                grads = local.direction(grads, params, replace(place, gradient=gradient))
            updates, state = local.rule.update(grads, state, params)
            params = {"x": params["x"] + updates["x"]}
        sent = {}
        if local.finish is not None:
            sent, memory = local.finish(params, state, place)
            for k, client in enumerate(clients):
                self.memory[client] = {s: {n: x[k] for n, x in t.items()} for s, t in memory.items()}
        return {"arrays": params, **sent}


def server_round(message):
    """Give the round that a message belongs to."""
    return int(next(iter(message.content.config_records.values()))[SERVER_ROUND])


def descend(name, *, rounds, lr=0.05, steps=10, rule="sgd", momentum=None, problem=PROBLEM, start=START, **options):
    """Give the model after each round of a strategy over its own client half, ``[rounds, n]``, and the strategy."""
    if name.startswith("mime"):  # its server follows the clients' rule
        hyper = {"lr": lr} | ({} if momentum is None else {"momentum": momentum})
        options = {**options, "rule": rule, "rule_options": hyper}
    strategy = make_strategy(name, fraction_evaluate=0.0, **options)
    half = strategy.client_method, strategy.client_options()
    grid = QuadraticGrid(*half, rule=rule, lr=lr, steps=steps, momentum=momentum, problem=problem)
    arrays = ArrayRecord({"x": Array(start.numpy())})
    path = []
    for server_round in range(1, rounds + 1):
        messages = strategy.configure_train(server_round, arrays, ConfigRecord(), grid)
        arrays, _ = strategy.aggregate_train(server_round, grid.send_and_receive(messages))
        assert strategy.rejected == []
        path.append(torch.from_numpy(arrays["x"].numpy().copy()))
    return torch.stack(path), strategy
