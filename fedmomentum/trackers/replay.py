"""Tell a run that is over, from its folder, to a listener that was not there."""

from __future__ import annotations

from collections import defaultdict

from fedmomentum.events import End, Failure, Listener, RoundEnd, Start
from fedmomentum.runs import Row, Run, columns


def replay(run: Run, listener: Listener) -> None:
    """Send the events of a stored run (or of one arm of it), arm by arm, as they were sent when it ran.

    Raises:
        UserError: a file of the run cannot be read.
    """
    for name, arm in (run.arms or {run.arm: run}).items():
        status = arm.status
        rounds = int(status.get("rounds", 0))
        clients, failures = _by_round(arm.clients), _by_round(arm.failures)
        listener.start(Start(run.name, rounds, 1, name, dict(status.get("facts", {}))))
        for row in arm.metrics:
            now = int(row["round"])
            failed = [Failure(int(f["client"]), str(f["reason"]), str(f["kind"])) for f in failures[now]]
            listener.round_end(RoundEnd(now, rounds, row, columns(clients[now]), failed, arm=name))
        became = str(status.get("status", ""))
        became = became if became in ("finished", "failed") else "interrupted"  # it may have been killed
        listener.end(End(became, int(status.get("rounds_done", 0)), name, str(status.get("message", ""))))


def _by_round(rows: list[Row]) -> defaultdict[int, list[Row]]:
    grouped: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[int(row["round"])].append({key: value for key, value in row.items() if key not in ("round", "arm")})
    return grouped
