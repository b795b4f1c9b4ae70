"""TLS and authenticated nodes on loopback: keys from our script, two rounds on nodes' own data, and who is kept out."""

from __future__ import annotations

import csv
import json
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fedmomentum.data import load
from fedmomentum.deployment import flwr_command
from fedmomentum.deployment.loopback import NAME, Loopback
from fedmomentum.runs import load_run
from tests.deployment.test_in_process import ALL
from tests.end_to_end.tiny import write

ROOT = Path(__file__).parents[2]
NODES = ("npz", "secretive", "unfit")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys") / "made"
    words = [
        "--host",
        "localhost",
        "--host",
        "127.0.0.1",
        *(w for name in (*NODES, "stranger") for w in ("--node", name)),
    ]
    script = [sys.executable, str(ROOT / "deploy" / "credentials.py"), str(folder), *words]
    subprocess.run(script, check=True, capture_output=True, timeout=120, cwd=ROOT)
    again = subprocess.run(script, check=False, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert again.returncode == 2 and "never overwritten" in again.stderr
    return folder


def test_private_keys_are_for_their_owner_alone(keys):
    for name in ("ca.key", "server.key", "superexec.secret", *NODES):
        assert stat.S_IMODE((keys / name).stat().st_mode) == 0o600
    assert (keys / "npz.pub").read_text().startswith("ecdsa-sha2-nistp384 ")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_rounds_with_tls_and_authentication_and_nobody_else(keys, tmp_path, monkeypatch, capsys):
    digits = load("digits")
    half = len(digits.x) // 2
    np.savez(tmp_path / "own.npz", x=digits.x[:half], y=digits.y[:half])
    np.savez(tmp_path / "small.npz", x=digits.x[:40, :, :4], y=digits.y[:40])
    with (tmp_path / "own.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow([*(f"p{i}" for i in range(64)), "label"])
        rows.writerows([*x.ravel(), y] for x, y in zip(digits.x[half:], digits.y[half:], strict=True))
    tls = [
        "--ssl-ca-certfile",
        f"{keys}/ca.crt",
        "--ssl-certfile",
        f"{keys}/server.crt",
        "--ssl-keyfile",
        f"{keys}/server.key",
    ]
    config = {
        "npz": {"data": str(tmp_path / "own.npz")},
        "secretive": {"data": str(tmp_path / "own.csv"), "report-counts": False},
        "unfit": {"data": str(tmp_path / "small.npz")},
    }
    with Loopback(tmp_path / "loopback", superlink=(*tls, "--enable-supernode-auth")) as federation:
        federation.configure([f'root-certificates = "{keys}/ca.crt"'])
        for name, value in federation.variables.items():
            monkeypatch.setenv(name, value)
        trust = ["--root-certificates", f"{keys}/ca.crt"]
        for name in NODES:
            words = [flwr_command.executable(), "supernode", "register", str(keys / f"{name}.pub"), NAME]
            subprocess.run(words, check=True, capture_output=True, timeout=120)
            federation.start_node(name, config[name], [*trust, "--auth-supernode-private-key", str(keys / name)])
        federation.start_node("stranger", {}, [*trust, "--auth-supernode-private-key", str(keys / "stranger")])
        federation.start_node("plaintext", {}, ["--insecure", "--max-retries", "1"])

        from fedmomentum.cli import main

        path = write(
            tmp_path, rounds=2, participation=ALL, data={"name": "digits", "partition": {"name": "iid", "clients": 2}}
        )
        flags = ["--federation", NAME, "--out", str(tmp_path / "runs"), "--clients", "2", "--json"]
        code = main(["deploy", str(path), *flags])
        said = capsys.readouterr()
        assert code == 0, said.err
        run = load_run(json.loads(said.out)["folder"])
        assert [row["replies"] for row in run.metrics[1:]] == [2, 2]
        assert run.metrics[-1]["accuracy"] > run.metrics[0]["accuracy"]
        # one client does not tell how much it has, so all count alike and none tells more than the other
        assert "a client does not tell how many examples it has: every client counts alike" in said.err
        assert {row["num-examples"] for row in run.clients} == {float(half), 1.0}
        assert "shape [1, 4, 8]; the scenario needs [1, 8, 8]" in said.err

        deadline = time.monotonic() + 60
        kept_out = {"stranger", "plaintext"}
        while kept_out and time.monotonic() < deadline:
            kept_out -= {name for name in kept_out if federation.processes[name].poll() is not None}
            time.sleep(0.2)
        assert not kept_out, federation.log("stranger") + federation.log("plaintext")
        assert all(federation.processes[name].returncode != 0 for name in ("stranger", "plaintext"))
        plain = federation.folder / "flwr" / "config.toml"
        plain.write_text(plain.read_text().replace("root-certificates", "insecure = true\n#"))
        assert main(["deploy", str(path), *flags]) == 2
