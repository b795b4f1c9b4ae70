"""``make rehearse``: a federation on loopback ports, a scenario on it, and its rounds beside Flower's own floor.

``python -m fedmomentum.deployment.rehearsal [SCENARIO] [--nodes N] [--rounds R]``. The floor is measured in the same
rehearsal: an app whose clients import torch, as any that trains does, and send the model back as it came.
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
    for number in range(config["rounds"]):
        began = time.perf_counter()
        content = RecordDict({"arrays": model})
        replies = list(grid.send_and_receive([Message(content, node, "train") for node in nodes]))
        assert not any(reply.has_error() for reply in replies)
        print(f"floor-round {time.perf_counter() - began:.3f}", flush=True)
'''


def floor(folder: Path, nodes: int, rounds: int, size: int) -> list[float]:
    """Give the seconds of each round of an app that computes nothing, on a federation that is up.

    Args:
        folder: for the app; is made.
        nodes: SuperNodes that are up.
        rounds: how many.
        size: parameters of the model that travels.
    """
    folder.mkdir()
    (folder / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")
    (folder / "floor.py").write_text(_APP, encoding="utf-8")
    words = ["--run-config", f"rounds={rounds} nodes={nodes} size={size}", "--stream"]
    done = subprocess.run(
        [flwr_command.executable(), "run", str(folder), NAME, *words],
        env=flwr_command.environment(), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    found = [float(line.split("floor-round ")[1]) for line in done.stdout.splitlines() if "floor-round " in line]
    if len(found) != rounds:
        raise UserError(f"the app that computes nothing did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return found


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
    base, mine = statistics.median(before + after), statistics.median(ours)
    print(f"round 1, clients join:  {joined:6.2f} s")
    print(f"round:                  {mine:6.2f} s  (median of {len(ours)}, {min(ours):.2f} to {max(ours):.2f})")
    print(f"Flower's floor:         {base:6.2f} s  (median of {len(before + after)}, before and after)")
    print(f"on top of it:           {mine - base:+6.2f} s  ({(mine / base - 1) * 100:+.0f}%)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
