"""A report: one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from fedmomentum import __version__
from fedmomentum.errors import UserError
from fedmomentum.report import experiment, population, record, results
from fedmomentum.report.charts import MOST_CURVES, Chart, as_data, charts, groups, shown, spread_charts
from fedmomentum.report.gather import Source, gather, unit_of
from fedmomentum.report.headline import headline
from fedmomentum.report.markup import Html, data_block, join, tag, text
from fedmomentum.report.numbers import plural, real
from fedmomentum.report.pieces import named, section
from fedmomentum.runs import Run
from fedmomentum.runs.atomic import write_text

STYLES = ("uplot-1.6.32.min.css", "report.css")
SCRIPTS = ("uplot-1.6.32.min.js", "report.js")


def write_report(
    runs: Sequence[Run], out: Path, *, plots: bool = True, written: Callable[[Path], object] = lambda path: None
) -> list[Path]:
    """Write a report of one or several runs, and each of its plots as PNG and SVG beside it.

    Args:
        runs: what to report, in the order of the columns.
        out: the HTML file; folders are made where they are missing.
        plots: whether to draw the plots, into ``<name of out>-plots``. They take longer than the report.
        written: called when the HTML file is there.

    Returns:
        The HTML file, then the pictures.

    Raises:
        UserError: there is no run, ``status.json`` of one is damaged, or the file cannot be written.
    """
    if not runs:
        raise UserError("there is no run to report")
    sources = gather(runs)
    html, drawn = page(sources)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, html)
        written(out)
        if not plots:
            return [out]
        from fedmomentum.report.pictures import draw_plots

        return [out, *draw_plots(sources, drawn, out.with_name(f"{out.stem}-plots"))]
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written: {error.strerror or error}") from error


def page(sources: Sequence[Source]) -> tuple[str, list[Chart]]:
    """Give the HTML of a report, and the charts that are on it."""
    arms = [arm for source in sources for arm in source.arms]
    measured = charts(arms)
    found = headline(arms, measured)
    best = sorted(line.index for line in found.lines[:MOST_CURVES])
    colours = {index: colour for colour, index in enumerate(best)}
    drawn = [*shown(measured, colours), *shown(spread_charts(arms), colours)]
    steady = [chart for chart in drawn if experiment.is_steady(chart)]
    drawn = [chart for chart in drawn if chart not in steady]
    federated = experiment.is_federated(sources)
    unit = "round" if federated else "step"
    if not federated:
        drawn = experiment.plain_titles(drawn)
    data = as_data(drawn, unit)
    sentence = experiment.sentence(sources)
    figures = {
        kind: [results.chart_figure(c, d) for c, d in zip(drawn, data, strict=True) if c.kind == kind]
        for kind in ("metric", "spread", "probe")
    }
    grid = {kind: tag("div", *made, class_="grid") for kind, made in figures.items() if made}
    sections: dict[str, Html | None] = {
        "setting": record.setting(sources),
        "numbers": section("numbers", "Headline numbers", results.headline_table(found, colours, federated))
        if sentence is None
        else None,
        "predictions": experiment.findings(sources),
        "claims": results.claims(sources),
        "pictures": experiment.pictures(sources),
        "curves": section("curves", "Curves", grid["metric"]) if "metric" in grid else None,
        "partition": population.partitions(sources),
        "clients": population.clients(arms, figures["spread"], colours),
        "participation": population.participation(arms),
        "time": results.time_profile(arms, colours),
        "probes": section("probes", "Probes and other measurements", grid["probe"]) if "probe" in grid else None,
        "steady": experiment.steady(sources, steady, colours),
        "failures": record.failures(sources, federated),
        "provenance": record.provenance(sources),
        "repeat": record.repeat(sources),
    }
    made = {identifier: content for identifier, content in sections.items() if content is not None}
    body = join(
        [
            tag("a", "To the content", href="#content", class_="skip"),
            _head(sources, sentence or results.finding(found, unit), list(made)),
            tag("main", *made.values(), id="content"),
            tag("footer", f"Written by fedmomentum {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. ",
                "The charts are drawn by uPlot 1.6.32 (MIT licence)."),
            data_block("charts", data),
        ]
    )  # fmt: skip
    return _document(" | ".join(dict.fromkeys(source.question for source in sources)), body), drawn


def _head(sources: Sequence[Source], finding: str, sections: Sequence[str]) -> Html:
    """Make the top of the page: links, the question, what was found, what became of each run."""
    theme = tag("button", "Theme: automatic", type="button", id="theme")
    bar = tag("nav", *(tag("a", s.capitalize(), href=f"#{s}") for s in sections), theme, aria_label="Contents")
    questions = list(dict.fromkeys(source.question for source in sources))
    together = f"{len(sources)} runs side by side"
    title = join([tag("h1", text(questions[0], most=400)), tag("p", together) if len(sources) > 1 else None])
    if len(questions) > 1:
        items = (tag("li", tag("strong", named(s.label)), ": ", text(s.question, most=400)) for s in sources)
        title = join([tag("h1", together), tag("ul", *items, class_="questions")])
    return tag("header", bar, title, tag("p", finding, class_="finding"), *map(_state, sources))


def _state(source: Source) -> Html:
    """Say in a line what became of a run."""
    arms = len(groups(source.arms))
    seeds = max(Counter(arm.group for arm in source.arms).values(), default=1)
    rounds = max((real(row["round"]) for arm in source.arms for row in arm.rows), default=0.0)
    words = [plural(rounds, unit_of(source))] + [f"{arms} arms"] * (arms > 1) + [f"{seeds} seeds"] * (seeds > 1)
    started = str(source.status.get("started") or "")
    words += [f"{started[:16].replace('T', ' ')} UTC"] if started else []
    state = tag("span", source.state, class_=f"state {source.state}")
    return tag("p", state, " ", named(source.label), ": ", ", ".join(words), class_="about")


def _document(title: str, body: Html) -> str:
    """Put the page together; the policy lets nothing run but the two scripts below, and nothing load at all."""
    styles = [_asset(name) for name in STYLES]
    scripts = [_asset(name) for name in SCRIPTS]
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src {' '.join(map(_digest, styles))}",
            f"script-src {' '.join(map(_digest, scripts))}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="generator", content=f"fedmomentum {__version__}"),
        tag("title", text(title, most=200)),
        *(Html(f"<style>{style}</style>") for style in styles),
    )
    after = join(Html(f"<script>{script}</script>") for script in scripts)
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', body, after), lang='en')}\n"


def _asset(name: str) -> str:
    return resources.files("fedmomentum.report").joinpath("assets", name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    """Name a script or style by its SHA-256, as a content security policy does."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
