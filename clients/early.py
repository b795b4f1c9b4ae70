"""Steps that are taken while the gradients come: each parameter moves as soon as its gradient is whole, and lets it go.

All gradients of a large model are never there at once, nor all of its updates. The bits are those of a step that is
taken when all gradients are there, for any model whose parameters act through their gradients alone (one that is also
used detached is refused by torch, because it has changed), and for a rule and a direction that do to each tensor what
they do to it alone (tests/clients/test_early.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fedmomentum.clients.local import LocalUpdate, Place
from fedmomentum.clients.spec import ClientSpec
from fedmomentum.optim.registry import RULES
from fedmomentum.trees import State, Tree


@contextmanager
def as_gradients_come(params: Sequence[Tensor], step: Callable[[int], None]) -> Iterator[None]:
    """Call ``step(i)`` in a backward pass as soon as the gradient of parameter ``i`` is whole, and then let that go."""

    def hook(position: int, param: Tensor) -> None:
        with torch.no_grad():
            step(position)
        param.grad = None

    handles = [
        p.register_post_accumulate_grad_hook(partial(hook, i))  # type: ignore[no-untyped-call]
        for i, p in enumerate(params)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tensor_by_tensor(local: LocalUpdate, spec: ClientSpec) -> bool:
    """Say whether a client's rule, and what its method feeds to it, treat each tensor as if it were alone."""
    whole = spec.clip_norm is not None or spec.adapt is not None  # a norm or a curvature of the whole model
    return local.by_tensor and spec.optimizer["name"] in RULES and not whole


class Early:
    """A client that steps by its rule and its method, tensor by tensor.

    Args:
        params: of the network, which are moved in place.
        local: what the client does, for which :func:`tensor_by_tensor` holds.
        state: of its rule, which is written to.
        place: what it knows.
    """

    def __init__(self, params: Mapping[str, Tensor], local: LocalUpdate, state: State, place: Place) -> None:
        """Begin a client."""
        self._names, self._params = list(params), list(params.values())
        self._rule, self._direction = local.rule, local.direction
        self.state: State = {slot: dict(tree) for slot, tree in state.items()}
        """Of the rule, after the last whole step."""
        self._place = place
        self._moved: set[str] = set()
        self._next: Tree = {}

    @contextmanager
    def while_backward(self) -> Iterator[None]:
        """Take the step of one backward pass."""
        self._moved, self._next = set(), {}
        with as_gradients_come(self._params, self._step):
            yield
        with torch.no_grad():
            for i, name in enumerate(self._names):
                if name not in self._moved:  # it takes no part in the loss: its gradient is zero
                    self._params[i].grad = torch.zeros_like(self._params[i])
                    self._step(i)
                    self._params[i].grad = None
        if self._next:
            self.state["step"] = self._next

    def _step(self, position: int) -> None:
        name, p = self._names[position], self._params[position]
        if name in self._moved:
            raise RuntimeError(f"the gradient of '{name}' came twice in one backward pass")
        self._moved.add(name)
        assert p.grad is not None
        grads, here = {name: p.grad}, {name: p.detach()}
        if self._direction is not None:
            grads = self._direction(grads, here, _only(self._place, name))
        held = {slot: tree if slot == "step" else _of(tree, name) for slot, tree in self.state.items()}
        updates, kept = self._rule.update(grads, held, here)
        for slot, tree in kept.items():
            if slot == "step":
                self._next = tree
            elif name in tree:  # new memory for old, over and over, would leave a heap full of holes
                self.state[slot][name].copy_(tree[name])
        p.add_(updates[name])


def _only(place: Place, name: str) -> Place:
    """Give what a place holds for one tensor of the model."""
    shared = {record: _of(tree, name) for record, tree in place.shared.items()}
    memory = {slot: _of(tree, name) for slot, tree in place.memory.items()}
    return replace(place, anchor=_of(place.anchor, name), shared=shared, memory=memory, gradient=None)


def _of(tree: Tree, name: str) -> Tree:
    return {name: tree[name]} if name in tree else tree
