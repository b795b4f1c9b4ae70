"""A SuperNode that is over ends, whatever its threads do."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGUN = """
import sys, threading, time
from flwr.supernode import cli
from fedmomentum.deployment import supernode

def flower_supernode():
    threading.Thread(target=time.sleep, args=(600,), daemon={daemon}).start()
    {end}

cli.flower_supernode = flower_supernode
supernode.main()
"""


@pytest.mark.parametrize(
    ("end", "daemon", "code", "said"),
    [
        ("raise ConnectionError('the handshake timed out')", False, 1, "ConnectionError: the handshake timed out"),
        ("return", False, 1, "it has given up"),  # what Flower's does after a handshake that timed out
        ("sys.exit(7)", True, 7, ""),  # Flower's own way to end, which takes care of its threads
    ],
)
def test_what_ends_the_work_of_a_supernode_ends_its_process(end, daemon, code, said):
    done = subprocess.run(
        [sys.executable, "-c", BEGUN.format(end=end, daemon=daemon)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code and said in done.stderr


def test_it_takes_the_arguments_of_flowers():
    words = [sys.executable, "-m", "fedmomentum.deployment.supernode", "--superlink"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "flower-supernode: error: argument --superlink: expected one" in done.stderr
