"""What the command line accepts; imports nothing that the commands need."""

from __future__ import annotations

import argparse

from fedmomentum import __version__

KINDS = ("scenarios", "runs", "data", "partitions", "models", "strategies", "optimizers", "systems", "problems")
"""What ``fedmomentum list`` can list."""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; ``args.module`` names the module whose ``command(args)`` does the work."""
    parser = argparse.ArgumentParser(
        prog="fedmomentum",
        description="Federated learning simulation about momentum, driven by YAML scenarios.",
        epilog="Start with: fedmomentum run quickstart",
    )
    parser.add_argument("--version", action="version", version=f"fedmomentum {__version__}")
    parser.set_defaults(module=None, debug=False)

    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", help="show tracebacks, and what Flower and Ray have to say")
    override = argparse.ArgumentParser(add_help=False)
    override.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one setting of the scenario, as in --set client.optimizer.lr=0.1; may be given several times",
    )

    profiled = argparse.ArgumentParser(add_help=False)
    profiled.add_argument(
        "--profile",
        action="store_true",
        help="write where the time went to profile.json, and a timeline for Perfetto to trace.json, in the run folder",
    )

    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, module: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", parents=parents)
        command.set_defaults(module=f"fedmomentum.cli.{module}")
        return command

    run = add("run", "run", "run a scenario and keep what it gave in a run folder", override, profiled, debug)
    run.add_argument("scenario", metavar="SCENARIO", help="a YAML file, or the name of a shipped scenario")
    run.add_argument("--out", default="runs", metavar="FOLDER", help="where run folders go (default: %(default)s)")
    run.add_argument("--quiet", action="store_true", help="print only the last lines")
    run.add_argument("--json", action="store_true", help="print one JSON object at the end, progress to stderr")

    resume = add(
        "resume", "resume", "go on with a run that was stopped, or extend one: --set rounds=200",
        override, profiled, debug,
    )  # fmt: skip
    resume.add_argument("run", metavar="RUN", help="a run folder, or that of a sweep")
    resume.add_argument("--jobs", type=_count, default=1, metavar="N", help="of a sweep: points at a time (default: 1)")
    resume.add_argument("--quiet", action="store_true", help="print only the last lines")
    resume.add_argument("--json", action="store_true", help="print one JSON object at the end, progress to stderr")

    sweep = add("sweep", "sweep", "run every point of a sweep, or those that are left of one", override, debug)
    sweep.add_argument("scenario", metavar="SCENARIO", help="a YAML file, or the name of a shipped scenario")
    for flag, text in (("--grid", "every combination is a point"), ("--zip", "lists of one length that move together")):
        sweep.add_argument(
            flag,
            metavar="KEY=V1,V2",
            action="append",
            default=[],
            help=f"values of a setting, as in {flag} client.optimizer.lr=0.01,0.1; {text}; may be given several times",
        )
    sweep.add_argument("--seeds", type=_count, metavar="N", help="repeat every point with so many seeds")
    sweep.add_argument("--jobs", type=_count, default=1, metavar="N", help="points at a time (default: %(default)s)")
    sweep.add_argument("--out", default="runs", metavar="FOLDER", help="where run folders go (default: %(default)s)")
    sweep.add_argument("--quiet", action="store_true", help="print only the last lines")
    sweep.add_argument("--json", action="store_true", help="print one JSON object at the end, progress to stderr")

    deploy = add("deploy", "deploy", "run a scenario with real clients, through Flower's SuperLink", override, debug)
    deploy.add_argument(
        "scenario", nargs="?", metavar="SCENARIO", help="a YAML file, or the name of a shipped scenario"
    )
    deploy.add_argument(
        "--federation", metavar="NAME", help="connection to a SuperLink, as in Flower's config.toml (flwr config list)"
    )
    deploy.add_argument("--resume", metavar="RUN", help="go on with a deployed run; --set rounds=200 extends it")
    deploy.add_argument("--clients", type=_count, metavar="N", help="clients to wait for (default: the scenario's)")
    deploy.add_argument(
        "--least", type=_count, metavar="N", help="clients without which no later round begins (default: 1)"
    )
    for flag, text in (
        ("--node-timeout", "to wait for clients (default: 120)"),
        ("--round-timeout", "a round (default: 600)"),
    ):
        deploy.add_argument(flag, type=float, metavar="S", help=f"seconds {text}")
    deploy.add_argument(
        "--exclude-after", type=int, metavar="N", help="refused replies after which a client is left out (default: 3)"
    )
    deploy.add_argument("--send-model", type=float, metavar="MIB", help="largest model to fetch (default: 64)")
    deploy.add_argument("--out", default="runs", metavar="FOLDER", help="where run folders go (default: %(default)s)")
    deploy.add_argument("--quiet", action="store_true", help="print only the last lines")
    deploy.add_argument("--json", action="store_true", help="print one JSON object at the end, progress to stderr")

    flower = add("app", "app", "write the Flower App of a scenario, for flwr run", override, debug)
    flower.add_argument("scenario", metavar="SCENARIO", help="a YAML file, or the name of a shipped scenario")
    flower.add_argument("folder", metavar="FOLDER", help="where to write it; is made")

    validate = add("validate", "validate", "check scenarios without running them", override, debug)
    validate.add_argument("scenarios", nargs="+", metavar="SCENARIO", help="YAML files or names of shipped scenarios")

    listing = add("list", "catalogue", "list scenarios, runs, or the names that a scenario can use", debug)
    listing.add_argument("kind", nargs="?", choices=KINDS, default="scenarios", help="default: %(default)s")
    listing.add_argument("--out", default="runs", metavar="FOLDER", help="where run folders are (default: %(default)s)")

    show = add("show", "show", "print a scenario with every default filled in, or what a run gave", override, debug)
    show.add_argument("what", metavar="SCENARIO|RUN", help="a scenario (file or shipped name) or a run folder")
    show.add_argument("--rows", type=int, default=5, metavar="N", help="rounds to print of a run (default: 5)")

    advise = add(
        "advise",
        "advise",
        "measure curvature, noise and agreement, and say what lr and momentum suit them",
        override,
        debug,
    )
    advise.add_argument("what", metavar="RUN|SCENARIO", help="a run folder, or a scenario (file or shipped name)")
    advise.add_argument("--arm", metavar="NAME", help="which arm (default: the first)")
    advise.add_argument("--clients", type=_count, default=16, metavar="N", help="clients to ask (default: %(default)s)")
    advise.add_argument(
        "--rounds",
        type=_whole,
        default=10,
        metavar="N",
        help="rounds before the second look (default: %(default)s)",
    )
    advise.add_argument(
        "--margin",
        type=_margin,
        default=0.5,
        metavar="M",
        help="part of the stable region to use (default: %(default)s)",
    )
    advise.add_argument("--json", action="store_true", help="print one JSON object")

    cite = add("cite", "cite", "print BibTeX of the papers behind what a scenario uses", override, debug)
    cite.add_argument("scenario", metavar="SCENARIO", help="a YAML file, or the name of a shipped scenario")

    compare = add("compare", "compare", "compare runs and their arms, paired by seed, in a table and a picture", debug)
    compare.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or folders of single arms")
    compare.add_argument("--metric", metavar="NAME", help="what to compare (default: accuracy, else loss)")
    compare.add_argument("--target", type=float, metavar="VALUE", help="also tell when each first came to this value")
    compare.add_argument("--baseline", metavar="NAME", help="what differences are taken from (default: the first)")
    compare.add_argument(
        "--confidence", type=float, default=95.0, metavar="PERCENT", help="of every interval (default: 95)"
    )
    compare.add_argument("--plots", default="plots", metavar="FOLDER", help="for the picture (default: %(default)s)")
    compare.add_argument("--no-plots", dest="plots", action="store_const", const="", help="draw no picture")
    form = compare.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object, the values of each seed included")
    form.add_argument("--csv", action="store_true", help="print the table as CSV")

    runs = commands.add_parser("runs", help="look over the runs in a folder", description="Look over runs.")
    actions = runs.add_subparsers(title="actions", metavar="ACTION", required=True)
    listed = actions.add_parser("list", parents=[debug], help="what became of each run", description="List runs.")
    listed.set_defaults(module="fedmomentum.cli.runs")
    listed.add_argument("--out", default="runs", metavar="FOLDER", help="where run folders are (default: %(default)s)")
    listed.add_argument("--sort", choices=("time", "accuracy", "name"), default="time", help="default: %(default)s")
    listed.add_argument(
        "--filter",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="keep runs with this name, status, arm or setting, as in strategy.name=fedavgm; * stands for anything; "
        "may be given several times",
    )
    listed.add_argument("--json", action="store_true", help="print one JSON list")

    export = add("export", "export", "write the tables of a run as CSV or Parquet", debug)
    export.add_argument("run", metavar="RUN", help="a run folder, or the folder of a single arm")
    form = export.add_mutually_exclusive_group(required=True)
    form.add_argument("--csv", dest="format", action="store_const", const="csv", help="text, for anything")
    form.add_argument(
        "--parquet", dest="format", action="store_const", const="parquet", help="typed columns (needs polars)"
    )
    export.add_argument(
        "--table", choices=("metrics", "clients", "failures"), help="only this table (default: metrics and clients)"
    )
    export.add_argument("--out", metavar="FILE", help="for the metrics, clients beside it; - prints one table as CSV")

    report = add("report", "report", "write what runs gave as one HTML file, with its plots beside it", debug)
    report.add_argument("runs", nargs="+", metavar="RUN", help="run folders; several stand side by side")
    report.add_argument(
        "--out", metavar="FILE", help="the HTML file (default: report.html in the run folder, here for several)"
    )
    report.add_argument("--open", action="store_true", help="open it in the browser")
    report.add_argument("--no-plots", dest="plots", action="store_false", help="write no PNG and SVG files")

    watch = add("watch", "watch", "follow a run that is going on, until it ends", debug)
    watch.add_argument("run", metavar="RUN", help="a run folder")
    watch.add_argument(
        "--interval", type=_seconds, default=0.5, metavar="S", help="seconds between looks (default: 0.5)"
    )
    return parser


def _count(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not {text}")
    return int(text)


def _whole(text: str) -> int:
    """Read a whole number of at least 0."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, not {text}")
    return int(text)


def _margin(text: str) -> float:
    """Read a number in (0, 1]."""
    try:
        margin = float(text)
    except ValueError:
        margin = 0.0
    if not 0 < margin <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most 1, not {text}")
    return margin


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.01 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"expected seconds from 0.01 to 3600, not {text}")
    return seconds
