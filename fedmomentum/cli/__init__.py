"""The ``fedmomentum`` command.

Exit codes: 0 all is well, 1 an error inside, 2 the user's input is wrong, 3 a claim of ``expect:`` does not hold,
130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from fedmomentum.cli.parser import build_parser
from fedmomentum.errors import UserError

OK, INTERNAL, USER, CLAIM, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; only ``--help``, ``--version`` and bad usage leave through SystemExit."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.module is None:
        parser.print_help()
        return USER
    try:
        code: int = import_module(args.module).command(args)
        sys.stdout.flush()  # a closed pipe is to show here, not at exit
        return code
    except UserError as error:
        if args.debug:
            traceback.print_exc()
        print(error, file=sys.stderr)
        return USER
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; keep Python from flushing into it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        else:
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            print(f"internal error: {what}\n(run the same command with --debug to see where)", file=sys.stderr)
        return INTERNAL
