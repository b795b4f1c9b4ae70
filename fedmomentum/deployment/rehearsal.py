"""``make rehearse``: a federation on loopback ports, a scenario on it, and its rounds beside Flower's own floor.

``python -m fedmomentum.deployment.rehearsal [SCENARIO] [--nodes N] [--rounds R]``. The floor is measured in the same
rehearsal, before and after the scenario: an app whose clients send the model back as it came. A third of its rounds
waits for replies as Flower's own grid does, which looks for them every 3 s. The others wait as ours does, which has
nothing to do with what clients cost, so our cost is what comes on top of these. In a third the clients import torch, as
those of any app that trains in the process of its message have to.
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
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


@client.train()
def train(message, context):
    if message.content["config"]["torch"]:
        import torch

        assert torch.is_tensor(torch.zeros(1))
    return Message(message.content, reply_to=message)


@server.main()
def main(grid, context):
    config = context.run_config
    model = ArrayRecord({"x": Array(np.zeros(config["size"], np.float32))})
    while len(nodes := list(grid.get_node_ids())) < config["nodes"]:
        time.sleep(0.2)
    for number in range(3 * config["rounds"]):
        kind = ("flower", "ours", "torch")[number % 3]
        began = time.perf_counter()
        content = RecordDict({"arrays": model, "config": ConfigRecord({"torch": kind == "torch"})})
        messages = [Message(content, node, "train") for node in nodes]
        if kind != "flower":
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
        print(f"floor-{kind} {time.perf_counter() - began:.3f}", flush=True)
'''


KINDS = ("flower", "ours", "torch")


def floor(folder: Path, nodes: int, rounds: int, size: int) -> dict[str, list[float]]:
    """Give the seconds of each round of an app that computes nothing, on a federation that is up.

    ``flower`` is of rounds that wait as Flower's grid does, ``ours`` of rounds that wait as ours does, ``torch`` of
    those whose clients import torch beside that.

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
    found = {kind: [float(line.split(word)[1]) for line in lines if word in line] for kind in KINDS
             for word in [f"floor-{kind} "]}  # fmt: skip
    if any(len(seconds) != rounds for seconds in found.values()):
        raise UserError(f"the app that computes nothing did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Rehearse; give the exit code."""
    parser = argparse.ArgumentParser(prog="rehearsal", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("scenario", nargs="?", default="quickstart", help="default: %(default)s")
    parser.add_argument("--nodes", type=int, default=3, help="SuperNodes (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the scenario and of the floor (default: 5)")
    parser.add_argument("--no-resident", action="store_true", help="let no process stay on a node between two messages")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(words)
    changes = [f"rounds={args.rounds}", f"data.partition.clients={args.nodes}", "participation.fraction=1"]
    try:
        loaded = scenarios.load(args.scenario, [*changes, "expect=[]", *args.overrides])
        return _rehearse(replace(loaded, arms=loaded.arms[:1]), args.nodes, args.rounds, resident=not args.no_resident)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _rehearse(loaded: scenarios.LoadedScenario, nodes: int, rounds: int, *, resident: bool) -> int:
    with TemporaryDirectory(prefix="fedmomentum-") as scratch:
        place = Path(scratch)
        config = [{"partition-id": i, "num-partitions": nodes, "resident": resident} for i in range(nodes)]
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
    floors = {kind: before[kind] + after[kind] for kind in KINDS}
    base, mine = statistics.median(floors["ours"]), statistics.median(ours)
    print(f"round 1, clients join:  {joined:6.2f} s")
    for name, seconds in (
        ("round:", ours),
        ("Flower's floor:", floors["flower"]),
        ("  looked at as we do:", floors["ours"]),
        ("  and torch imported:", floors["torch"]),
    ):
        print(f"{name:23} {statistics.median(seconds):6.2f} s  ({_range(seconds)})")
    print(f"on top of the second:   {mine - base:+6.2f} s  ({(mine / base - 1) * 100:+.0f}%)")
    return 0


def _range(seconds: Sequence[float]) -> str:
    return f"median of {len(seconds)}, {min(seconds):.2f} to {max(seconds):.2f}"


if __name__ == "__main__":
    sys.exit(main())
