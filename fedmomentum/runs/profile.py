"""Where the time of a run went: a summary by phase and worker, and a trace for a viewer of timelines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fedmomentum.events import End, RoundEnd, Span, Start
from fedmomentum.runs.atomic import write_json
from fedmomentum.runs.folder import RunFolder

PROFILE, TRACE = "profile.json", "trace.json"
MOST_SPANS = 200_000
"""Spans that a trace keeps, those of the first rounds: more than that no viewer draws."""


class Profiler:
    """Writes ``profile.json`` and ``trace.json`` into the folder of each arm when it ends.

    The profile holds seconds by phase (in all, as a share, a round), and for each worker process its seconds of work
    and the share of the seconds of training in which it worked. The trace is in Chrome's format: open it in Perfetto
    (ui.perfetto.dev) or chrome://tracing. Times are those of each machine's own clock.
    """

    def __init__(self, folder: RunFolder) -> None:
        """Take the folder of the run."""
        self._folder = folder
        self._phases: dict[str, float] = {}
        self._workers: dict[str, dict[str, Any]] = {}
        self._spans: list[tuple[int, Span]] = []
        self._rounds, self._seconds, self._left_out = 0, 0.0, 0

    def start(self, event: Start) -> None:
        """Begin an arm."""
        self.__init__(self._folder)  # type: ignore[misc]

    def round_end(self, event: RoundEnd) -> None:
        """Add a round."""
        self._rounds += event.round > 0
        self._seconds += float(event.metrics.get("seconds", 0.0))
        for phase, seconds in event.seconds_by_phase.items():
            self._phases[phase] = self._phases.get(phase, 0.0) + seconds
        for span in event.spans:
            if span.host:
                worker = self._workers.setdefault(_name(span), {"seconds": 0.0, "tasks": 0, "clients": 0, "tests": 0.0})
                worker["tests" if span.name == "evaluate" and not span.clients else "seconds"] += span.seconds
                worker["tasks"] += 1
                worker["clients"] += span.clients
        room = MOST_SPANS - len(self._spans)
        self._spans += [(event.round, span) for span in event.spans[: max(room, 0)]]
        self._left_out += max(len(event.spans) - room, 0)

    def end(self, event: End) -> None:
        """Write both files."""
        folder = self._folder.arm(event.arm).path
        write_json(folder / PROFILE, self.summary())
        write_json(folder / TRACE, {"displayTimeUnit": "ms", "traceEvents": trace(self._spans)})

    def summary(self) -> dict[str, Any]:
        """Give the profile so far as plain data."""
        whole, training = sum(self._phases.values()), self._phases.get("train", 0.0)
        return {
            "rounds": self._rounds,
            "seconds": self._seconds,
            "phases": {
                phase: {
                    "seconds": seconds,
                    "share": seconds / whole if whole else 0.0,
                    "per_round": seconds / max(self._rounds, 1),
                }
                for phase, seconds in sorted(self._phases.items(), key=lambda item: -item[1])
            },
            "workers": {
                name: {**worker, "busy": worker["seconds"] / training if training else 0.0}
                for name, worker in sorted(self._workers.items())
            },
            "spans_left_out_of_the_trace": self._left_out,
        }


def trace(spans: Iterable[tuple[int, Span]]) -> list[dict[str, Any]]:
    """Give spans, each with its round, as events of Chrome's trace format: a row a process, microseconds."""
    events: list[dict[str, Any]] = []
    rows: dict[str, int] = {}
    for server_round, span in spans:
        name = _name(span)
        if name not in rows:
            rows[name] = len(rows)
            events.append(_meta("process_name", rows[name], name))
            events.append(_meta("process_sort_index", rows[name], rows[name] if span.host else -1))
        arguments: dict[str, int] = {"round": server_round}
        if span.clients:
            arguments["clients"] = span.clients
        events.append(
            {
                "name": span.name,
                "cat": "worker" if span.host else "rounds",
                "ph": "X",
                "ts": round(1e6 * span.began, 1),
                "dur": round(1e6 * span.seconds, 1),
                "pid": rows[name],
                "tid": 0,
                "args": arguments,
            }
        )
    return events


def _meta(kind: str, process: int, value: str | int) -> dict[str, Any]:
    key = "sort_index" if isinstance(value, int) else "name"
    return {"name": kind, "ph": "M", "pid": process, "tid": 0, "args": {key: value}}


def _name(span: Span) -> str:
    return f"worker {span.host}:{span.process}" if span.host else "rounds"
