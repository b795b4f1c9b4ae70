"""Flower's SuperNode as a service: a process that ends when its work does, so that whoever started it starts it again.

Flower 1.41's own stays when it gives its SuperLink up, as after a TLS handshake with one that stood still: the thread
that serves its apps keeps the process, which looks well and fetches no message any more.
"""

from __future__ import annotations

import os
import sys
import traceback

from flwr.supernode import cli


def main() -> None:
    """Do what ``flower-supernode`` does, with its arguments; where that ends by itself, end with exit code 1."""
    sys.argv[0] = "flower-supernode"
    try:
        cli.flower_supernode()  # ends with SystemExit when it is told to
        print("flower-supernode: it has given up; see above", file=sys.stderr)
    except Exception:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    main()
