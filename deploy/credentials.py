#!/usr/bin/env python3
"""Make what a federation with TLS and authenticated nodes needs: a CA, the SuperLink's certificate, keys, a secret.

python deploy/credentials.py FOLDER --host fl.example.org --host 192.0.2.7 --node hospital-a --node hospital-b

Run it once on the machine of the SuperLink. Give each node its own key and ca.crt, nothing else, over a channel that
you trust; better still, a node makes its key itself (``--node`` without ``--host`` makes no CA) and sends only the
``.pub``. Keep ca.key off every machine that is connected. Keys that are there are never overwritten.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fedmomentum.deployment.credentials import CA, make_node, make_server
from fedmomentum.errors import UserError


def main() -> int:
    """Write the files that are asked for; give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write; is made, for its owner alone")
    parser.add_argument("--host", action="append", default=[], help="name or address of the SuperLink for nodes")
    parser.add_argument("--node", action="append", default=[], help="name of a node that is to have a key")
    parser.add_argument("--days", type=int, default=365, help="for which the certificate holds (default: 365)")
    args = parser.parse_args()
    if not args.host and not args.node:
        parser.error("nothing to make: give --host, --node, or both")
    try:
        if args.host:
            make_server(args.folder, args.host, days=args.days)
            print(f"{args.folder / CA}: goes to every node, and to everyone who submits runs")
        for name in args.node:
            private, public = make_node(args.folder, name)
            print(f"{private}: goes to node {name} alone; register {public}:")
            print(f"    flwr supernode register {public} CONNECTION")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
