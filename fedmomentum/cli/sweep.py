"""``fedmomentum sweep``, and ``fedmomentum resume`` of a sweep."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from fedmomentum.cli.quiet import hush, stdout_to_stderr
from fedmomentum.cli.run import report_result
from fedmomentum.cli.summary import SCORES, last_value, score
from fedmomentum.cli.table import table
from fedmomentum.report.numbers import duration, number

if TYPE_CHECKING:
    from fedmomentum.course import Result
    from fedmomentum.sweeping import PointEnd

Go = Callable[[Callable[["PointEnd"], None]], "Result"]

MOST_ROWS = 30


def command(args: argparse.Namespace) -> int:
    """Run what is left of a sweep; give the exit code."""
    from fedmomentum import scenario
    from fedmomentum.sweeping.flags import sweep_overrides

    flags = sweep_overrides(args.grid, args.zip, args.seeds)
    overrides = [*args.overrides, *flags]
    loaded = scenario.load(args.scenario, overrides)  # faults show before anything heavy loads

    def go(on_point: Callable[[PointEnd], None]) -> Result:
        from fedmomentum.sweeping import sweep

        return sweep(loaded.path, overrides=overrides, out=args.out, jobs=args.jobs, on_point=on_point, loud=args.debug)

    return carry_out(args, f"{loaded.scenario.question or loaded.scenario.name}  ({len(loaded.arms)} points)", go)


def resume(args: argparse.Namespace) -> int:
    """Go on with a sweep; give the exit code."""

    def go(on_point: Callable[[PointEnd], None]) -> Result:
        from fedmomentum.sweeping import resume_sweep

        return resume_sweep(args.run, overrides=args.overrides, jobs=args.jobs, on_point=on_point, loud=args.debug)

    return carry_out(args, f"going on with {args.run}", go)


def carry_out(args: argparse.Namespace, title: str, go: Go) -> int:
    """Run points, a line for each that is done, and a table of all at the end; give the exit code."""
    if not args.debug:
        hush()
    stream = sys.stderr if args.json else sys.stdout
    with stdout_to_stderr() if args.json else nullcontext():
        if args.quiet:
            result = go(lambda event: None)
        else:
            print(title, file=stream, flush=True)
            result = go(lambda event: print(line(event), file=stream, flush=True))
            if len(result.arms) > 1:
                print(f"\n{overview(result.arms)}\n", file=stream)
    return report_result(args, result)


def line(event: PointEnd) -> str:
    """Say in a line what a point gave: ``3/12  lr=0.1,seed=2  accuracy 0.912  ETA 1:10``."""
    words = [f"{event.done}/{event.total}", *([event.name] if event.name else [])]
    metric = score({"": event.rows})
    if event.status != "finished":
        words.append(event.status)
    if metric is not None:
        words.append(f"{metric.replace('_', ' ')} {number(last_value(event.rows, metric))}")
    if event.status == "failed":
        words.append(event.message)
    if event.done < event.total and event.status != "interrupted":
        words.append(f"ETA {duration(event.remaining)}")
    return "  ".join(words)


def overview(arms: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Give a table of the points, the best first; seeds of a point are one row with their mean, lowest and highest."""
    from fedmomentum.report.curves import without_seed

    metric = score(arms)
    if metric is None:
        return "nothing was measured"
    groups: dict[str, list[float]] = {}
    for name, rows in arms.items():
        if rows:
            value = last_value(rows, metric)
            groups.setdefault(without_seed(name), []).append(math.nan if value is None else value)
    sign = -1.0 if SCORES[metric] is max else 1.0
    means = {name: math.fsum(values) / len(values) for name, values in groups.items()}
    ranked = sorted(groups, key=lambda name: (math.isnan(means[name]), sign * means[name]))
    several = any(len(values) > 1 for values in groups.values())
    heads = ["point", metric.replace("_", " "), *(["lowest", "highest", "seeds"] if several else [])]
    body = []
    for name in ranked[:MOST_ROWS]:
        values = groups[name]
        spread = [number(min(values)), number(max(values)), str(len(values))] if several else []
        body.append([name or "-", number(means[name]), *spread])
    more = f"\nand {len(ranked) - MOST_ROWS} more, all in points.csv" if len(ranked) > MOST_ROWS else ""
    return table(heads, body) + more
