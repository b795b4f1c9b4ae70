from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from fedmomentum.cli import CLAIM, INTERNAL, INTERRUPTED, OK, USER, main, watch
from fedmomentum.cli.panel import LivePanel
from fedmomentum.cli.progress import Lines, Progress
from fedmomentum.cli.watch import Follower
from fedmomentum.events import End, Failure, RoundEnd, Start
from fedmomentum.runs import Recorder, RunFolder

ROOT = Path(__file__).parents[2]
NOBODY = 2**22 + 1
"""More than the largest process number that Linux gives."""


def open_run(out: Path, **scenario: object) -> tuple[RunFolder, Recorder]:
    resolved = {"name": "quick", "question": "Does it help?", **scenario}
    folder = RunFolder.create(out, "quick", scenario_text="", resolved=resolved, hash="0" * 64)
    return folder, Recorder(folder)


def round_end(r: int, arm: str = "", *, failures: int = 0) -> RoundEnd:
    metrics = {
        "round": r,
        "accuracy": r / 10,
        "replies": 8.0 - failures,
        "failures": float(failures),
        "elapsed": 2.0 * r,
    }
    return RoundEnd(r, 4, metrics, failures=[Failure(c, "late") for c in range(failures)], arm=arm)


def run_all(recorder: Recorder, arm: str = "", first: int = 1, last: int = 4) -> None:
    recorder.start(Start("quick", 4, first, arm, {"device": "cpu"}))
    for r in range(first, last + 1):
        recorder.round_end(round_end(r, arm, failures=r % 2))


def test_it_tells_what_the_run_told_its_own_listeners(tmp_path: Path) -> None:
    """Watching the files gives the same state as listening to the run."""
    folder, recorder = open_run(tmp_path)
    listener, seen = Progress(), Progress()
    told = 0
    follower = Follower(folder.path)
    for arm in ("FedAvg", "FedAvgM"):
        events = [
            Start("quick", 4, 1, arm, {"device": "cpu"}),
            *(round_end(r, arm, failures=r % 2) for r in range(1, 5)),
        ]
        for event in [*events, End("finished", 4, arm)]:
            for one in (recorder, listener):
                call = {Start: one.start, RoundEnd: one.round_end, End: one.end}[type(event)]
                call(event)  # type: ignore[arg-type]
            told += 1
            if told % 2:
                follower._look(seen)
    folder.set_status("finished")
    assert not follower.follow(seen, pause=0)
    for name, arm in listener.arms.items():
        other = seen.arms[name]
        facts = ("status", "rounds", "done", "replies", "failures", "accuracies", "latest")
        assert [getattr(other, fact) for fact in facts] == [getattr(arm, fact) for fact in facts]
    assert list(seen.arms) == ["FedAvg", "FedAvgM"] and seen.facts == {"device": "cpu"}


def test_pace_is_told_by_the_runs_own_clock(tmp_path: Path) -> None:
    folder, recorder = open_run(tmp_path)
    run_all(recorder, last=3)
    follower = Follower(folder.path)
    progress = Progress(clock=follower.clock)
    follower._look(progress)
    [arm] = progress.arms.values()
    assert arm.seconds == 6.0 and arm.remaining == 2.0
    assert arm.rate == (8 + 7) / 4, "of the two rounds after the first"


def test_rows_that_a_resumed_run_does_again_count_once(tmp_path: Path) -> None:
    folder, recorder = open_run(tmp_path)
    run_all(recorder, last=3)
    follower, progress = Follower(folder.path), Progress()
    follower._look(progress)
    run_all(Recorder(folder), first=3)
    follower._look(progress)
    [arm] = progress.arms.values()
    assert (arm.done, arm.replies, arm.accuracies) == (4, 8 * 4 - 2, [0.1, 0.2, 0.3, 0.4])


def test_it_ends_when_the_run_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, recorder = open_run(tmp_path)
    recorder.start(Start("quick", 4))

    def work() -> None:
        for r in range(1, 5):
            time.sleep(0.05)
            recorder.round_end(round_end(r))
        recorder.end(End("finished", 4))

    worker = threading.Thread(target=work)
    worker.start()
    code = main(["watch", str(folder.path), "--interval", "0.01"])
    worker.join()
    shown = capsys.readouterr().out
    assert code == OK
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("round ")] == ["1/4", "2/4", "3/4", "4/4"]
    assert "quick reached accuracy 0.400 after 4 rounds" in shown and f"run folder: {folder.path}" in shown


@pytest.mark.parametrize(("status", "code"), [("finished", OK), ("interrupted", INTERRUPTED), ("failed", INTERNAL)])
def test_the_exit_code_is_that_of_the_run(
    status: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, recorder = open_run(tmp_path)
    run_all(recorder)
    recorder.end(End(status, 4, message="because" if status == "failed" else ""))
    assert main(["watch", str(folder.path)]) == code
    assert ("because" in capsys.readouterr().err) == (status == "failed")


def test_it_waits_for_claims_and_tells_those_that_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, recorder = open_run(tmp_path, expect=[{"metric": "accuracy", "ge": 0.9}])
    run_all(recorder)
    recorder.end(End("finished", 4))
    claims = [{"text": "accuracy >= 0.9: measured 0.4", "ok": False}, {"text": "yes", "ok": True}]
    later = threading.Timer(0.4, lambda: folder.set_status(expectations=claims))
    later.start()
    assert main(["watch", str(folder.path)]) == CLAIM
    later.join()
    shown = capsys.readouterr().out
    assert "claims: 1 of 2 hold" in shown and "does not hold: accuracy >= 0.9: measured 0.4" in shown


@pytest.mark.parametrize("pid", [NOBODY, None, "x", -1, 2**70])
def test_a_killed_run_is_given_up(
    pid: object, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PATIENCE", 0.05)
    folder, recorder = open_run(tmp_path)
    run_all(recorder, last=2)
    folder.set_status(pid=pid if pid is not None else "")
    assert main(["watch", str(folder.path), "--interval", "0.01"]) == INTERNAL
    assert "seems to have been killed" in capsys.readouterr().err


def test_a_slow_run_whose_process_lives_is_not_given_up(tmp_path: Path) -> None:
    folder, recorder = open_run(tmp_path)
    run_all(recorder, last=1)
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 50:
            recorder.end(End("finished", 1))

    hours = iter(range(0, 10**6, 3600))
    assert not Follower(folder.path, sleep=sleep).follow(Progress(), pause=1, now=lambda: float(next(hours)))
    assert looks == 50


def test_a_terminal_gets_the_panel(tmp_path: Path) -> None:
    folder, recorder = open_run(tmp_path)
    for arm in ("FedAvg", "FedAvgM"):
        run_all(recorder, arm)
        recorder.end(End("finished", 4, arm))
    folder.set_status("finished")
    screen = StringIO()
    follower = Follower(folder.path)
    console = Console(file=screen, force_terminal=True, width=120, height=30)
    with LivePanel(console, "Does it help?", clock=follower.clock) as panel:
        follower.follow(panel, pause=0)
    last = screen.getvalue().rsplit("Does it help?", 1)[1]
    assert "FedAvgM" in last and "4/4" in last and "0.400" in last and "finished 8.0 s" in last


def test_a_pipe_gets_lines(tmp_path: Path) -> None:
    assert isinstance(watch._progress(StringIO(), "q", time.monotonic), Lines)


@pytest.mark.parametrize("words", [["watch", "nowhere"], ["report", "nowhere"]])
def test_no_such_run_is_the_users_error(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == USER
    assert "nowhere: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("interval", ["0", "nan", "-1", "x", "1e9"])
def test_intervals_that_make_no_sense_are_refused(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["watch", "run", f"--interval={interval}"])
    assert "expected seconds from 0.01 to 3600" in capsys.readouterr().err


def test_report_and_watch_work_where_torch_flower_and_ray_are_not(tmp_path: Path) -> None:
    folder, recorder = open_run(tmp_path)
    run_all(recorder)
    recorder.end(End("finished", 4))
    code = f"""
import sys
for name in ("torch", "flwr", "ray", "pydantic"):
    sys.modules[name] = None
from fedmomentum.cli import main
sys.exit(main(["watch", {str(folder.path)!r}]) or main(["report", {str(folder.path)!r}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (folder.path / "report.html").stat().st_size > 50_000
    assert (folder.path / "report-plots" / "accuracy.png").exists()


def test_report_says_where_it_is_and_opens_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    folders = []
    for _ in range(2):
        folder, recorder = open_run(tmp_path)
        run_all(recorder)
        recorder.end(End("finished", 4))
        folders.append(str(folder.path))
    assert main(["report", folders[0], "--no-plots", "--open"]) == OK
    assert capsys.readouterr().out == f"report: {folders[0]}/report.html\n"
    assert opened == [(Path(folders[0]) / "report.html").as_uri()]
    assert main(["report", *folders, "--no-plots"]) == OK
    assert "2 runs side by side" in Path("report.html").read_text()
    assert main(["report", *folders, "--no-plots", "--out", "deep/er/x.html"]) == OK
    assert Path("deep/er/x.html").exists() and len(opened) == 1
