"""Run every benchmark, or one: ``python -m benchmarks [engine | driver | scale | ...]`` or ``make bench``."""

from __future__ import annotations

import importlib
import sys

NAMES = ("engine", "driver", "scale", "gpu", "samplers")


def main(arguments: list[str]) -> int:
    """Run the benchmark that the first argument names with the rest of them, or all in turn."""
    if arguments and arguments[0] in NAMES:
        return int(importlib.import_module(f"benchmarks.{arguments[0]}").main(arguments[1:]))
    if arguments and not arguments[0].startswith("-"):
        print(f"no benchmark '{arguments[0]}'; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    if arguments:  # flags alone are those of the engine benchmark
        return int(importlib.import_module("benchmarks.engine").main(arguments))
    return max(int(importlib.import_module(f"benchmarks.{name}").main([])) for name in NAMES)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
