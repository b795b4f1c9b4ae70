"""Ten clients with a quadratic each, behind a Flower grid: strategies and client halves, on problems solved by hand."""

from __future__ import annotations

from dataclasses import replace

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedmomentum.clients.local import Place
from fedmomentum.clients.methods import make_local
from fedmomentum.optim import expand_state, make_rule
from fedmomentum.optim.problems import heterogeneous_quadratics
from fedmomentum.protocol import GRADIENT_QUERY, MEMBERS
from fedmomentum.simulation import flower
from fedmomentum.simulation.grid import BaseGrid
from fedmomentum.strategies import make_strategy

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
        self.local, self.lr, self.problem = make_local(method, make_rule(rule, **hyper), **options), lr, problem
        self.steps = [steps] * len(problem.centres) if isinstance(steps, int) else steps
        self.memory = {}

    def _work(self, messages, timeout):
        by_steps = {}
        for message in messages:
            by_steps.setdefault(self.steps[message.metadata.dst_node_id], []).append(message)
        return [self._block(group, steps) for steps, group in by_steps.items()]

    def _block(self, messages, steps):
        clients = [m.metadata.dst_node_id for m in messages]
        content, size = messages[0].content, len(clients)
        records = {
            name: {key: torch.from_numpy(a.numpy().copy()) for key, a in record.items()}
            for name, record in content.array_records.items()
        }
        anchor = {name: x.expand(size, *x.shape) for name, x in records.pop("arrays").items()}
        shared = {r: {n: x.expand(size, *x.shape) for n, x in t.items()} for r, t in records.items()}
        hessians, centres = self.problem.hessians[clients], self.problem.centres[clients]

        def gradient(point):
            return {"x": (hessians @ (point["x"] - centres).unsqueeze(-1)).squeeze(-1)}

        if messages[0].metadata.message_type == GRADIENT_QUERY:
            sent = {"gradient": gradient(anchor)}
        else:
            sent = self._train(clients, gradient, anchor, shared, steps)
        columns = {"lr": [self.lr] * size, "steps": [float(steps)] * size}
        reply = RecordDict({"metrics": MetricRecord({"num-examples": float(size)})})
        for name, tree in sent.items():
            reply[name] = ArrayRecord({key: Array(x.mean(0).numpy()) for key, x in tree.items()})
        reply[MEMBERS] = ConfigRecord({"client": clients, "num-examples": [1.0] * size, **columns})
        return flower.reply(messages[0], reply)

    def _train(self, clients, gradient, anchor, shared, steps):
        local, memory = self.local, {}
        if local.remember is not None:
            fresh = local.remember({"x": anchor["x"][0]})
            kept = [self.memory.get(c, fresh) for c in clients]
            memory = {slot: {n: torch.stack([k[slot][n] for k in kept]) for n in fresh[slot]} for slot in fresh}
        place = Place(anchor, shared, memory, None, torch.full((len(clients),), steps), self.lr, gradient(anchor))
        state = expand_state(local.rule.init({"x": anchor["x"][0]}), len(clients))
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
