"""``make rehearse``: a federation on loopback ports, a scenario on it, and its rounds beside Flower's own floor.

``python -m fedmomentum.deployment.rehearsal [SCENARIO] [--nodes N] [--rounds R]``. The floor is measured in the same
rehearsal, before and after the scenario: an app whose clients import torch, as any that trains does, and send the model
back as it came. Every other round waits for replies as Flower's own grid does, which looks for them every 3 s, the
others wait as ours does; that has nothing to do with what clients cost, so our cost is what comes on top of the latter.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from fedmomentum import scenario as scenarios
from fedmomentum.deployment import flwr_command
from fedmomentum.deployment.deploy import deploy
from fedmomentum.deployment.grid import POLL
from fedmomentum.deployment.loopback import NAME, Loopback
from fedmomentum.deployment.settings import Settings
from fedmomentum.errors import UserError

_PROJECT = """\
[project]
name = "floor"
version = "1.0.0"
description = "What a round costs when nobody computes anything"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "fedmomentum"
[tool.flwr.app.components]
serverapp = "floor:server"
clientapp = "floor:client"
[tool.flwr.app.config]
rounds = 3
nodes = 3
size = 1000
poll = 0.25
"""

_APP = '''\
"""Every client sends back what it was sent."""

import time

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


@client.train()
def train(message, context):
    assert torch.is_tensor(torch.zeros(1))
    return Message(message.content, reply_to=message)


@server.main()
def main(grid, context):
    config = context.run_config
    model = ArrayRecord({"x": Array(np.zeros(config["size"], np.float32))})
    while len(nodes := list(grid.get_node_ids())) < config["nodes"]:
        time.sleep(0.2)
    for number in range(2 * config["rounds"]):
        began = time.perf_counter()
        content = RecordDict({"arrays": model})
        messages = [Message(content, node, "train") for node in nodes]
        if number % 2:
            replies, left = [], set(grid.push_messages(messages))
            while left:
                found = list(grid.pull_messages(left))
                left -= {reply.metadata.reply_to_message_id for reply in found}
                replies += found
                if left:
                    time.sleep(config["poll"])
        else:
            replies = list(grid.send_and_receive(messages))
        assert not any(reply.has_error() for reply in replies)
        print(f"floor-{'ours' if number % 2 else 'flower'} {time.perf_counter() - began:.3f}", flush=True)
'''


def floor(folder: Path, nodes: int, rounds: int, size: int) -> tuple[list[float], list[float]]:
    """Give the seconds of each round of an app that computes nothing, on a federation that is up.

    The first list is of rounds that wait as Flower's grid does, the second of rounds that wait as ours does.

    Args:
        folder: for the app; is made.
        nodes: SuperNodes that are up.
        rounds: how many of each kind.
        size: parameters of the model that travels.
    """
    folder.mkdir()
    (folder / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")
    (folder / "floor.py").write_text(_APP, encoding="utf-8")
    words = ["--run-config", f"rounds={rounds} nodes={nodes} size={size} poll={POLL}", "--stream"]
    done = subprocess.run(
        [flwr_command.executable(), "run", str(folder), NAME, *words],
        env=flwr_command.environment(), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    theirs, ours = (
        [float(line.split(word)[1]) for line in lines if word in line] for word in ("floor-flower ", "floor-ours ")
    )
    if len(theirs) != rounds or len(ours) != rounds:
        raise UserError(f"the app that computes nothing did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return theirs, ours


def main(words: Sequence[str] | None = None) -> int:
    """Rehearse; give the exit code."""
    parser = argparse.ArgumentParser(prog="rehearsal", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("scenario", nargs="?", default="quickstart", help="default: %(default)s")
    parser.add_argument("--nodes", type=int, default=3, help="SuperNodes (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the scenario and of the floor (default: 5)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(words)
    changes = [f"rounds={args.rounds}", f"data.partition.clients={args.nodes}", "participation.fraction=1"]
    try:
        loaded = scenarios.load(args.scenario, [*changes, "expect=[]", *args.overrides])
        return _rehearse(replace(loaded, arms=loaded.arms[:1]), args.nodes, args.rounds)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _rehearse(loaded: scenarios.LoadedScenario, nodes: int, rounds: int) -> int:
    with TemporaryDirectory(prefix="fedmomentum-") as scratch:
        place = Path(scratch)
        config = [{"partition-id": i, "num-partitions": nodes} for i in range(nodes)]
        began = time.monotonic()
        with Loopback(place / "loopback", config) as federation:
            os.environ.update(federation.variables)
            print(f"SuperLink and {nodes} SuperNodes on loopback after {time.monotonic() - began:.1f} s", flush=True)
            before = floor(place / "floor", nodes, rounds, 1000)
            result = deploy(loaded, NAME, settings=Settings(), out=place / "runs")
            if result.status != "finished":
                print("\n".join(result.warnings), file=sys.stderr)
                return 1
            after = floor(place / "floor-again", nodes, rounds, 1000)
    ours = [row["seconds"] for row in result.metrics if row["round"] > 1]  # in round 1 nodes are asked who they are
    joined = next(row["seconds"] for row in result.metrics if row["round"] == 1)
    theirs, same = before[0] + after[0], before[1] + after[1]
    base, mine = statistics.median(same), statistics.median(ours)
    print(f"round 1, clients join:  {joined:6.2f} s")
    print(f"round:                  {mine:6.2f} s  ({_range(ours)})")
    print(f"Flower's floor:         {statistics.median(theirs):6.2f} s  ({_range(theirs)})")
    print(f"  looked at as we do:   {base:6.2f} s  ({_range(same)})")
    print(f"on top of the latter:   {mine - base:+6.2f} s  ({(mine / base - 1) * 100:+.0f}%)")
    return 0


def _range(seconds: Sequence[float]) -> str:
    return f"median of {len(seconds)}, {min(seconds):.2f} to {max(seconds):.2f}"


if __name__ == "__main__":
    sys.exit(main())
