"""A federation on one machine, for rehearsals and tests: a SuperLink and SuperNodes on loopback ports."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from fedmomentum.deployment import flwr_command
from fedmomentum.deployment.settings import PLACE
from fedmomentum.errors import UserError

HOST = "127.0.0.1"
NAME = "loopback"
"""Name of the connection in Flower's configuration."""


@dataclass
class Loopback:
    """Starts a SuperLink and SuperNodes, and ends them and all that they started; use it as a context.

    Args:
        folder: for Flower's files and the logs; is made.
        nodes: the node config of each SuperNode.
        superlink: further arguments of ``flower-superlink``.
        environment: further variables.
    """

    folder: Path
    nodes: Sequence[Mapping[str, object]] = ()
    superlink: Sequence[str] = ("--insecure",)
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        """Start the SuperLink, wait until it answers, and start the nodes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.start_superlink()
            for number, config in enumerate(self.nodes):
                self.start_node(f"node-{number}", config)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all processes."""
        self.close()

    @property
    def variables(self) -> dict[str, str]:
        """The environment of every process: Flower's files and the server's runs in this folder, no ``uv sync``."""
        return {
            **flwr_command.environment(),
            "FLWR_HOME": str(self.folder / "flwr"),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            PLACE: str(self.folder / "server-runs"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "OMP_NUM_THREADS": "1",
            **self.environment,
        }

    def start_superlink(self) -> None:
        """Start the SuperLink, on the port that it had before if it had one, and wait until it answers."""
        self.port = self.port or free_port()
        self.configure()
        self.start("superlink", "flower-superlink", *self.superlink, "--host", HOST, "--port", str(self.port))
        deadline = time.monotonic() + 60.0
        while not _answers(self.port):
            if self.processes["superlink"].poll() is not None or time.monotonic() > deadline:
                raise UserError(f"the SuperLink did not start:\n{self.log('superlink')[-2000:]}")
            time.sleep(0.1)

    def configure(self, lines: Sequence[str] = ("insecure = true",)) -> None:
        """Write Flower's configuration, in which the connection ``loopback`` leads to this SuperLink."""
        home = self.folder / "flwr"
        home.mkdir(exist_ok=True)
        text = f'[superlink]\ndefault = "{NAME}"\n\n[superlink.{NAME}]\naddress = "{HOST}:{self.port}"\n'
        (home / "config.toml").write_text(text + "\n".join(lines) + "\n", encoding="utf-8")

    def start_node(self, name: str, config: Mapping[str, object], arguments: Sequence[str] = ("--insecure",)) -> None:
        """Start a SuperNode."""
        words = " ".join(
            f'{key}="{value}"' if isinstance(value, str) else f"{key}={_toml(value)}" for key, value in config.items()
        )
        self.start(
            name, "flower-supernode", *arguments, "--superlink", f"{HOST}:{self.port}",
            "--port", str(free_port()), *(("--node-config", words) if words else ()),
        )  # fmt: skip

    def start(self, name: str, command: str, *arguments: str) -> None:
        """Start a process of Flower in a session of its own, its output in ``<name>.log``, in a neutral folder."""
        neutral = self.folder / "neutral"
        neutral.mkdir(exist_ok=True)
        with (self.folder / f"{name}.log").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                [flwr_command.executable(command), *arguments],
                cwd=neutral,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent if _LIBC is not None else None,
            )

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """End a process and all that it started, at once unless another signal is given."""
        process = self.processes.pop(name)
        for sent in (number, signal.SIGKILL):
            try:
                os.killpg(process.pid, sent)
            except ProcessLookupError:
                break
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                continue
        process.wait()

    def log(self, name: str) -> str:
        """Give what a process has written."""
        path = self.folder / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def close(self) -> None:
        """End all processes, the nodes first."""
        for name in [
            *(n for n in self.processes if n != "superlink"),
            *(n for n in self.processes if n == "superlink"),
        ]:
            self.kill(name)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Let Linux kill this process with the one that started it, however that ends; what it starts then ends too."""
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port() -> int:
    """Give a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((HOST, port)) == 0


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
