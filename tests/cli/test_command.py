from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from fedmomentum.cli import main
from fedmomentum.runs import list_runs, load_run

SGR_COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38)[;m]")
CURSOR_UP = b"\x1b[1A"
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 0, ""),
        (["--set", "act=claim"], 3, ""),
        (["--set", "act=failed"], 1, ""),
        (["--set", "act=stopped"], 130, ""),
        (["--set", "act=interrupt"], 130, "interrupted"),
        (["--set", "act=user"], 2, "data.csv: no such file"),
        (["--set", "act=crash"], 1, "internal error: ZeroDivisionError: no examples"),
        (["--set", "bad=1"], 2, "s.yaml:4:1: modle: unknown key; did you mean 'model'?"),
    ],
)
def test_exit_codes_and_messages(
    stand_in: ModuleType, capsys: Capture, words: list[str], code: int, message: str
) -> None:
    assert main(["run", "s.yaml", *words]) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert bool(err) == bool(message)


@pytest.mark.parametrize(("act", "kind"), [("crash", "ZeroDivisionError"), ("user", "UserError")])
def test_debug_shows_where(stand_in: ModuleType, capsys: Capture, act: str, kind: str) -> None:
    main(["run", "s.yaml", "--set", f"act={act}", "--debug"])
    err = capsys.readouterr().err
    assert "Traceback" in err and kind in err and "stand_in.py" in err


@pytest.mark.parametrize("act", ["crash", "interrupt"])
def test_what_was_recorded_before_the_end_is_named(stand_in: ModuleType, capsys: Capture, act: str) -> None:
    main(["run", "s.yaml", "--set", f"act={act}"])
    (run,) = list_runs("runs")
    assert f"4 rows of metrics are kept in {run.path}" in capsys.readouterr().err
    assert len(run.metrics) == 4


def test_the_final_lines_say_what_happened_and_where_to_look(stand_in: ModuleType, capsys: Capture) -> None:
    main(["run", "s.yaml", "--quiet"])
    (run,) = list_runs("runs")
    assert capsys.readouterr().out.splitlines() == [
        "FedAvgM reached accuracy 0.900 after 10 rounds; FedAvg 0.800 (5.0 s, 100 client updates, 2 failures)",
        "claims: 1 of 1 hold",
        f"run folder: {run.path}",
        f"picture:    {run.path}/plots/accuracy.png",
    ]


def test_a_claim_that_does_not_hold_and_warnings_are_told(stand_in: ModuleType, capsys: Capture) -> None:
    main(["run", "s.yaml", "--quiet", "--set", "act=claim"])
    out = capsys.readouterr().out
    assert "claims: 1 of 2 hold\n  does not hold: FedAvg accuracy 0.800 >= 0.95\n" in out
    main(["run", "s.yaml", "--quiet", "--set", "act=warn"])
    assert capsys.readouterr().err == "warning: 11 clients hold no example\n"


def test_a_pipe_gets_a_line_an_evaluation_and_no_escapes(stand_in: ModuleType, capsys: Capture) -> None:
    main(["run", "s.yaml"])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[0] == "Does momentum help?"
    assert len([line for line in lines if line.startswith("FedAvg  round ")]) == 11
    assert lines[3].startswith("FedAvg  round 2/10  accuracy 0.160  loss 0.333  ")
    assert "1 failed" in lines[5] and "ETA" in lines[5]


def test_json_is_one_object_and_the_rest_goes_to_stderr(script: Path, tmp_path: Path) -> None:
    words = [sys.executable, str(script), "run", "s.yaml", "--json", "--set", "act=chatty"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert answer["status"] == "finished"
    assert answer["arms"]["FedAvgM"] | {"metrics": None} == {
        "rounds": 10,
        "metric": "accuracy",
        "last": 0.9,
        "best": 0.9,
        "best_round": 10,
        "metrics": None,
    }
    assert (answer["client_updates"], answer["failures"], answer["seconds"]) == (100, 2, 5.0)
    assert load_run(tmp_path / answer["folder"]).status["status"] == "finished"
    assert done.stderr.count("print\n") == done.stderr.count("child\n") == 22
    assert "FedAvgM  round 10/10" in done.stderr


def test_json_in_one_process(stand_in: ModuleType, capsys: Capture) -> None:
    assert main(["run", "s.yaml", "--json", "--quiet", "--set", "act=claim"]) == 3
    captured = capsys.readouterr()
    assert [claim["ok"] for claim in json.loads(captured.out)["expectations"]] == [True, False]


def _heed_interrupts() -> None:
    """What a shell starts in the background ignores Ctrl-C, and hands that on to its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_cleanly(script: Path, tmp_path: Path, sent: signal.Signals) -> None:
    words = [sys.executable, str(script), "run", "s.yaml", "--set", "act=slow"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=tmp_path, preexec_fn=_heed_interrupts, **pipes) as process:
        assert process.stdout is not None and process.stderr is not None
        while "round 3/10" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(sent)
        assert process.wait(10) == 130
        err = process.stderr.read()
    assert "Traceback" not in err and err.endswith("interrupted\n") and "4 rows of metrics are kept in runs" in err


@pytest.mark.parametrize(
    ("environment", "colour", "live"),
    [
        ({"TERM": "xterm-256color"}, True, True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, False, True),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_a_terminal_gets_a_live_panel(
    script: Path, tmp_path: Path, environment: dict[str, str], colour: bool, live: bool
) -> None:
    master, slave = pty.openpty()
    words = [sys.executable, str(script), "run", "s.yaml"]
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    env = clean | {"COLUMNS": "120", "LINES": "30", "PYTHONUTF8": "1"} | environment
    with subprocess.Popen(words, cwd=tmp_path, stdout=slave, stderr=subprocess.PIPE, env=env) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                shown += (piece := os.read(master, 65536))
            except OSError:  # how Linux says that the other end is closed
                break
            if not piece:
                break
    os.close(master)
    assert process.returncode == 0
    assert (SGR_COLOUR.search(shown) is not None) == colour
    assert (CURSOR_UP in shown) == live
    assert ("╭".encode() in shown) == live
    assert (b"FedAvg  round 3/10" in shown) != live
    assert b"FedAvgM reached accuracy 0.900 after 10 rounds" in shown


def test_validate_checks_all_and_tells_all(stand_in: ModuleType, capsys: Capture) -> None:
    assert main(["validate", "s.yaml", "absent.yaml", "s.yaml"]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("ok  s.yaml: quick, 2 arms, 100 clients, 10 rounds\n      imports mine.nets:tiny")
    assert captured.out.count("ok  ") == 2
    assert captured.err == "absent.yaml: no such file\n"
    assert main(["validate", "s.yaml"]) == 0
    assert main(["validate", "s.yaml", "--set", "bad=1"]) == 2


def test_show_prints_a_scenario_that_reads_back(stand_in: ModuleType, capsys: Capture) -> None:
    assert main(["show", "s.yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == stand_in.RESOLVED


def test_show_prints_a_run(stand_in: ModuleType, capsys: Capture) -> None:
    main(["run", "s.yaml", "--quiet"])
    (run,) = list_runs("runs")
    capsys.readouterr()
    assert main(["show", str(run.path), "--rows", "2"]) == 0
    out = capsys.readouterr().out
    assert "Does momentum help?" in out and "FedAvgM reached accuracy 0.900" in out
    assert re.search(r"^FedAvg +10 +0\.800 +0\.800 +10 +0\.091 +0\.091 +10$", out, re.M)
    assert re.search(r"FedAvgM, last rounds\nround .*\n +9 +0\.810 .*\n +10 +0\.900 ", out)
    assert "FedAvg: failures: 1 dropout; the last in round 4, client 3: dropped out" in out
    assert main(["show", str(run.path.parent)]) == 2
    assert "not a run folder" in capsys.readouterr().err


def test_lists(stand_in: ModuleType, capsys: Capture) -> None:
    assert main(["list", "runs"]) == 0
    assert capsys.readouterr().out == "no runs in runs\n"
    main(["run", "s.yaml", "--quiet"])
    capsys.readouterr()
    main(["list", "runs"])
    assert re.search(r"runs/quick/\S+ +finished +accuracy FedAvg 0\.800, FedAvgM 0\.900\n$", capsys.readouterr().out)
    main(["list"])
    assert capsys.readouterr().out == "name        question\nquickstart  Does momentum help?\n"
    main(["list", "optimizers"])
    assert capsys.readouterr().out.splitlines() == [
        "name  what it is",
        "sgd   Plain steps against the gradient.",
        "adam  Scaled by second moments.",
    ]


@pytest.mark.parametrize(
    ("words", "code"), [(["--help"], 0), (["--version"], 0), (["fly"], 2), (["run"], 2), (["list", "cats"], 2)]
)
def test_usage(words: list[str], code: int, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == code


def test_no_command_prints_help(capsys: Capture) -> None:
    assert main([]) == 2
    assert "usage: fedmomentum" in capsys.readouterr().out


def test_help_loads_nothing_that_takes_time() -> None:
    code = (
        "import sys, fedmomentum.cli\n"
        "try: fedmomentum.cli.main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'flwr', 'ray', 'numpy', 'yaml', 'rich', 'matplotlib', 'pydantic', 'safetensors'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("loaded: []\n")


def test_show_and_list_of_runs_load_no_torch(stand_in: ModuleType, tmp_path: Path) -> None:
    main(["run", "s.yaml", "--quiet"])
    (run,) = list_runs("runs")
    code = (
        "import sys; from fedmomentum.cli import main\n"
        f"main(['show', {str(run.path)!r}]); main(['list', 'runs'])\n"
        "print('loaded:', sorted({'torch', 'flwr', 'ray', 'matplotlib'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("loaded: []\n")


def test_a_reader_that_has_seen_enough_is_no_error(script: Path, tmp_path: Path) -> None:
    words = [sys.executable, str(script), "list"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == b""
